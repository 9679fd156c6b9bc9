"""Folders, archives and columns that name splits; links, bombs and other traps."""

import gzip
import io
import pickle
import zipfile

import numpy as np
import pytest

pytest.importorskip("rdkit")

from ncgn_jax.config import with_fields
from ncgn_jax.faults import DataError
from ncgn_jax.molecules import text_lines
from ncgn_jax.molecules.config import default_config
from ncgn_jax.molecules.load import load_dataset, recognise

CHAINS = ["C" * n for n in range(2, 12)]
RINGS = ["C1" + "C" * n + "C1" for n in range(1, 6)]
ENDS = ["C" * n + "O" for n in range(1, 6)]


def load(path, **fields):
    fields = {f"data.{name}": value for name, value in fields.items()}
    config = default_config().lock()
    config = with_fields(
        config,
        {"data.source": "file", "data.path": str(path), "data.max_atoms": 20} | fields,
    )
    return load_dataset(config)


def write(path, smiles, header=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*([header] if header else []), *smiles]) + "\n")
    return path


def parts(data):
    return [part.smiles.tolist() for part in (data.train, data.validation, data.test)]


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "val.csv", "test.csv"),
        ("Training.csv", "dev.csv", "testing.csv"),
        ("guacamol_v1_train.csv", "guacamol_v1_valid.csv", "guacamol_v1_test.csv"),
        ("train/a.csv", "validation/a.csv", "test/a.csv"),
        ("x/Train/a.csv", "x/Valid/a.csv", "x/Test/a.csv"),
    ],
)
@pytest.mark.parametrize("is_zipped", [False, True])
def test_splits_are_those_that_the_files_are_named_for(tmp_path, names, is_zipped):
    for name, smiles in zip(names, (CHAINS, RINGS, ENDS), strict=True):
        write(tmp_path / "set" / name, smiles, "smiles")
    path = tmp_path / "set"
    if is_zipped:
        path = tmp_path / "set.zip"
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.write(tmp_path / "set" / name, name)
    data = load(path)
    assert parts(data) == [CHAINS, RINGS, ENDS]
    assert data.report.split_rule == "as the files are named"
    assert data.report.splits == {"train": 10, "val": 5, "test": 5}
    assert recognise(path) == {"data.source": "file"}
    mixed = load(path, split="random")
    assert sorted(sum(parts(mixed), [])) == sorted([*CHAINS, *RINGS, *ENDS])
    assert mixed.report.split_rule == "at random, seed 0"


def test_further_files_are_left_out_and_named(tmp_path):
    """As MOSES lies on disk: test and test_scaffolds, statistics beside."""
    write(tmp_path / "train.csv", CHAINS, "SMILES")
    write(tmp_path / "test.csv", ENDS, "SMILES")
    write(tmp_path / "test_scaffolds.csv", RINGS, "SMILES")
    write(tmp_path / "all.csv", [*CHAINS, *ENDS], "SMILES")
    (tmp_path / "test_stats.npz").write_bytes(b"statistics")
    (tmp_path / ".hidden.csv").write_text("smiles\nCC\n")
    data = load(tmp_path)
    train, validation, test = parts(data)
    assert sorted(train + validation) == sorted(CHAINS)
    assert (len(validation), test) == (1, ENDS)
    assert data.report.split_rule == (
        "as the files are named; val drawn from train, seed 0"
    )
    assert set(map(str, data.report.left_out)) == {
        "1 hidden files (first .hidden.csv)",
        "1 .npz files (first test_stats.npz)",
        "1 files that name no split, beside some that do (first all.csv)",
        "1 other files of test, beside one of just that name (first "
        "test_scaffolds.csv)",
    }


def test_numbered_files_of_a_split_belong_together(tmp_path):
    write(tmp_path / "train_1.smi", CHAINS[:5])
    write(tmp_path / "train_2.smi", CHAINS[5:])
    write(tmp_path / "test.smi", ENDS)
    data = load(tmp_path)
    assert sorted(parts(data)[0] + parts(data)[1]) == sorted(CHAINS)


def test_what_is_not_clear_of_a_folder_is_refused(tmp_path):
    write(tmp_path / "train.smi", CHAINS)
    write(tmp_path / "train.csv", CHAINS, "smiles")
    with pytest.raises(DataError, match=r"several files for train: .*split=random"):
        load(tmp_path)
    (tmp_path / "train.smi").unlink()
    (tmp_path / "train.csv").rename(tmp_path / "test.csv")
    with pytest.raises(DataError, match="files name test and not train"):
        load(tmp_path)
    (tmp_path / "test.csv").rename(tmp_path / "a.csv")
    write(tmp_path / "a.smi", CHAINS)
    with pytest.raises(DataError, match=r"files of several kinds: 1 \.csv, 1 \.smi"):
        load(tmp_path)
    (tmp_path / "a.csv").rename(tmp_path / "a.xyz")
    assert len(load(tmp_path).train) == 8
    (tmp_path / "a.smi").unlink()
    with pytest.raises(DataError, match="no file of molecules in it; allowed: .smi"):
        load(tmp_path)


def test_files_of_a_kind_are_read_as_one_and_texts_beside_are_not(tmp_path):
    write(tmp_path / "b" / "1.smi", CHAINS)
    write(tmp_path / "2.smi", RINGS)
    (tmp_path / "README.txt").write_text("About these molecules.\n")
    data = load(tmp_path)
    assert len(data.all_smiles()) == 15
    assert "2 files, none of a split's name, are read as one" in data.report.notes
    assert str(data.report.left_out[0]).startswith("1 .txt files")
    write(tmp_path / "2.smi", [*RINGS, "C1CC"])
    assert "(first 2.smi, line 6)" in str(load(tmp_path).report)


def test_linked_folders_are_read_once_and_never_out_of_the_folder(tmp_path):
    write(tmp_path / "there" / "test.smi", RINGS)
    folder = tmp_path / "here"
    write(folder / "train" / "a.smi", CHAINS)
    (folder / "loop").symlink_to(folder)
    (folder / "out").symlink_to(tmp_path / "there")
    (folder / "train_again").symlink_to(folder / "train")
    (folder / "train.smi").symlink_to(folder / "absent")
    data = load(folder)
    assert len(data.all_smiles()) == len(CHAINS)
    assert set(map(str, data.report.left_out)) == {
        "2 links out of the folder or in a circle (first loop)",
        "1 files of folders that links lead to again (first train_again/a.smi)",
        "1 links to nothing, and pipes (first train.smi)",
    }


@pytest.mark.parametrize("column", ["SPLIT", "split", "set"])
def test_a_column_of_splits_is_followed_and_said(tmp_path, column):
    rows = [f"{text},train" for text in CHAINS]
    rows += [f"{text},test" for text in ENDS]
    if column == "SPLIT":
        rows += [f"{text},test_scaffolds" for text in RINGS]
    file = write(tmp_path / "a.csv", rows, f"SMILES,{column}")
    data = load(file)
    assert parts(data)[2] == ENDS
    assert data.report.split_rule.startswith(f"by column {column!r}; val drawn")
    if column == "SPLIT":
        (left_out,) = data.report.left_out
        assert (
            str(left_out) == "5 of the further split 'test_scaffolds' (first line 17)"
        )
    assert load(file, split="random").report.split_rule == "at random, seed 0"


def test_a_column_that_is_asked_for_goes_before_the_names_of_files(tmp_path):
    write(tmp_path / "train.csv", [f"{text},train" for text in CHAINS], "smiles,part")
    write(tmp_path / "val.csv", [f"{text},test" for text in ENDS], "smiles,part")
    assert parts(load(tmp_path))[1] == ENDS
    data = load(tmp_path, split_column="part")
    assert parts(data)[2] == ENDS
    assert data.report.split_rule.startswith("by column 'part'; val drawn from train")


def test_other_values_in_a_column_of_splits_are_refused(tmp_path):
    rows = [f"{text},{i % 5}" for i, text in enumerate(CHAINS)]
    file = write(tmp_path / "a.csv", rows, "smiles,split")
    with pytest.raises(DataError, match=r"line 2: split is '0'; .*data\.split=ran"):
        load(file)
    rows = [*(f"{text},train" for text in CHAINS), "CCO,"]
    data = load(write(tmp_path / "a.csv", rows, "smiles,split"))
    (left_out,) = data.report.left_out
    assert str(left_out) == "1 of no split: split is empty (first line 12)"


@pytest.mark.parametrize("column", ["fold", "is_train", "Split 0", "cv.fold"])
def test_splits_in_another_form_are_said_not_to_be_followed(tmp_path, column):
    rows = [f"{text},{i % 2}" for i, text in enumerate(CHAINS)]
    data = load(write(tmp_path / "a.csv", rows, f"smiles,{column}"))
    (note,) = data.report.notes
    assert note.startswith(f"{column!r} is not followed as a split")


def test_several_columns_of_splits_are_refused(tmp_path):
    rows = [f"{text},train,test" for text in CHAINS]
    file = write(tmp_path / "a.csv", rows, "smiles,scaffold_split,random_split")
    with pytest.raises(DataError, match=r"scaffold_split, random_split; .*column"):
        load(file)
    with pytest.raises(DataError, match="no usable molecule of split train"):
        load(file, split_column="random_split")
    assert load(file, split_column="scaffold_split").report.split_rule.startswith("by")
    assert load(file, split="random").report.split_rule == "at random, seed 0"


def test_a_property_of_records_may_name_splits(tmp_path):
    from rdkit import Chem

    from ncgn_jax.molecules.export import write_sdf

    mols = [Chem.MolFromSmiles(text) for text in [*CHAINS, *ENDS]]
    for i, mol in enumerate(mols):
        mol.SetProp("Part", "train" if i < len(CHAINS) else "test")
    write_sdf(tmp_path / "a.sdf", mols)
    data = load(tmp_path / "a.sdf", split_column="Part")
    assert parts(data)[2] == ENDS
    assert data.report.split_rule.startswith("by property 'Part'")


def test_a_molecule_is_never_in_two_parts(tmp_path):
    write(tmp_path / "train.smi", [*CHAINS, "CCO"])
    write(tmp_path / "test.smi", ["OCC", "CCF"])
    data = load(tmp_path)
    assert parts(data)[2] == ["CCO", "CCF"] or set(parts(data)[2]) == {"CCO", "CCF"}
    assert "CCO" not in parts(data)[0] + parts(data)[1]
    assert any("in several splits" in note for note in data.report.notes)


def test_most_training_molecules_hold_for_given_splits_too(tmp_path):
    write(tmp_path / "train.smi", CHAINS)
    write(tmp_path / "val.smi", RINGS)
    write(tmp_path / "test.smi", ENDS)
    data = load(tmp_path, num_train=4, num_validation=2)
    assert [len(part) for part in parts(data)] == [4, 2, 5]
    assert set(map(str, data.report.left_out)) == {
        "6 of train, beyond data.num_train=4",
        "3 of val, beyond data.num_validation=2",
    }


def test_one_file_of_a_split_says_that_others_are_beside_it(tmp_path):
    file = write(tmp_path / "train.smi", CHAINS)
    write(tmp_path / "test.smi", ENDS)
    (note,) = load(file).report.notes
    assert note.startswith("train.smi alone is read, and test.smi beside it is not")


def test_parquet(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    columns = {
        "id": list(range(12)),
        "canonical_smiles": [*CHAINS, None, "C1CC"],
        "gap": [0.5, None, *range(10)],
        "split": ["train"] * 8 + ["test"] * 4,
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    data = load(tmp_path / "a.parquet", properties=("gap",))
    assert parts(data)[2] == CHAINS[8:]
    values = np.concatenate(
        [p.properties["gap"] for p in (data.train, data.validation, data.test)]
    )
    assert np.isnan(values).sum() == 1
    assert np.nanmin(values) == 0
    assert list(map(str, data.report.left_out)) == [
        "1 without SMILES (first line 11)",
        "1 unreadable SMILES (first line 12)",
    ]
    assert data.report.split_rule.startswith("by column 'split'")
    assert recognise(tmp_path / "a.parquet") == {"data.source": "file"}
    with pytest.raises(DataError, match="0 columns 'mu'"):
        load(tmp_path / "a.parquet", properties=("mu",))


def test_pickles_bombs_and_unsafe_archives_are_refused(tmp_path, monkeypatch):
    class Trap:
        def __reduce__(self):
            return (print, ("unpickled",))

    (tmp_path / "a.pkl").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError, match="may run code"):
        load(tmp_path / "a.pkl")
    # Pickled, but called a table.
    (tmp_path / "a.csv").write_bytes(pickle.dumps(Trap()))
    with pytest.raises(DataError):
        load(tmp_path / "a.csv")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("../evil.smi", "CC\n")
    with pytest.raises(DataError, match="unsafe member path"):
        load(tmp_path / "a.zip")
    monkeypatch.setattr(text_lines, "MAX_LINE", 1000)
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress(b"C" * 10**6))
    with pytest.raises(DataError, match="line 1: a line of more than 1,000 characters"):
        load(tmp_path / "b.smi.gz")
    monkeypatch.setattr(text_lines, "MAX_UNPACKED", 1000)
    (tmp_path / "b.smi.gz").write_bytes(gzip.compress(b"CC\n" * 1000))
    with pytest.raises(DataError, match="a compressed file of more than 1,000"):
        load(tmp_path / "b.smi.gz")


def test_lines_are_not_held(tmp_path):
    """Ten million lines are read one by one."""
    lines = text_lines.TextLines(io.BytesIO(b"CC\n" * 1000), "a")
    assert next(iter(lines)) == (1, "CC")


@pytest.mark.parametrize(
    ("name", "content", "is_own"),
    [
        ("a.smi", "CC\n", True),
        ("a.csv", "smiles,y\nCCO,1\n", True),
        ("a.csv", "x,y,z\n0.1,0.2,0.3\n", False),
        ("a.txt", "CCO\nCCN\n", True),
        ("a.txt", "0.1 0.2 0.3\n", False),
        ("genes.tsv", "cell\tHLA-A\tSOX9\n1\t0\t3\n", False),
        ("a.csv", "smiles,isosmiles\nCCO,OCC\n", True),
        ("a.xyz", "CC\n", False),
        ("a.txt", "notes on images\n", False),
        ("a.txt", "C\nN\n", False),
    ],
)
def test_molecules_are_recognised_by_a_look(tmp_path, name, content, is_own):
    (tmp_path / name).write_text(content)
    expected = {"data.source": "file"} if is_own else None
    assert recognise(tmp_path / name) == expected


def test_fields_that_a_source_does_not_read_are_refused(tmp_path):
    for field, value in (("salts", "largest"), ("properties", ("mu",))):
        with pytest.raises(DataError, match=rf"data\.{field}=.*not read with .*sample"):
            load("", source="sample", max_atoms=9, **{field: value})
    assert len(load("", source="sample", max_atoms=9, properties=("gap",)).train) == 480


@pytest.mark.parametrize("num", [1, 2])
def test_too_few_are_refused_with_what_was_left_out(tmp_path, num):
    file = write(tmp_path / "a.smi", [*CHAINS[:num], "C1CC"])
    with pytest.raises(
        DataError, match=rf"{num} usable mol.*: 1 unreadable SMILES.*3 or more"
    ):
        load(file)
    assert [len(p) for p in parts(load(write(file, CHAINS[:3])))] == [1, 1, 1]


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["CC", "CO", *["C" * 12] * 2, "C" * 13], "data.max_atoms=13 keeps all"),
        (["CC", "C" * 64, "C" * 63, "C" * 99], "64, the largest .* 75"),
        (["smiles,split", "CC,val", "CO,test", "CN,val", "CCCCCCCCCCF,train"], "11 k"),
        (["smiles,split", "CC,train", "CCCCCCCCCCF,train", "CO,val"], "=11 keeps"),
    ],
)
def test_too_few_for_their_size_are_read_with_another(tmp_path, lines, said):
    file = write(tmp_path / "a.csv", lines)
    with pytest.raises(DataError, match=said) as found:
        load(file, max_atoms=9)
    size = found.value.proposal["data.max_atoms"]
    assert 9 < size <= 64
    assert len(load(file, max_atoms=size).train) > 0


def test_size_is_no_way_out_of_other_faults(tmp_path):
    with pytest.raises(DataError, match="1 usable molecule") as found:
        load(write(tmp_path / "a.smi", ["CC", "C1CC", "C" * 99]))
    assert found.value.proposal == {}


def test_many_records_are_described_once(tmp_path):
    """Files of a folder have other properties each."""
    from rdkit import Chem

    from ncgn_jax.molecules.export import write_sdf

    for i, text in enumerate(CHAINS):
        mol = Chem.MolFromSmiles(text)
        mol.SetProp(f"p{i}", "1")
        write_sdf(tmp_path / f"{i}.sdf", [mol])
    report = load(tmp_path).report
    assert [str(tally) for tally in report.found] == [
        "10 records of .sdf (first 0.sdf)"
    ]
    assert report.contents[1] == (
        "properties not read: p0, p1, p2, p3, p4, p5, p6, p7, p8, p9"
    )
