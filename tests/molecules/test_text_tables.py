"""Separators, headers and columns: what is found, and what is said of it."""

import pytest

pytest.importorskip("rdkit")

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.text_tables import TextTable, Wanted, split_rows

SEMICOLONS = "separated by semicolons"


def table(name, *lines, **wanted):
    return TextTable(enumerate(lines, start=1), name, Wanted(**wanted))


def smiles(found):
    return [row.smiles for row in found.rows() if row.fault is None]


@pytest.mark.parametrize(
    ("name", "lines", "expected", "said"),
    [
        # semicolon.csv, comma_one_ok.smi and header_canonical.smi of the cases.
        ("a.csv", ["smiles;logP", "CCO;-0.3", "CCN;-0.1"], ["CCO", "CCN"], SEMICOLONS),
        ("a.smi", ["CCO,ethanol", "c1ccccc1", "CC"], ["CCO", "c1ccccc1", "CC"],
         "separated by commas"),
        ("a.smi", ["canonical_smiles id", "CCO I1"], ["CCO"],
         "'canonical_smiles', by its name"),
        ("a.tsv", ["id,smiles", "1,CCO"], ["CCO"], "separated by commas"),
        ("a.csv", ["id|smiles", "1|CCO"], ["CCO"], "separated by bars"),
        ("a.csv", ["smiles name", "CCO ethanol"], ["CCO"], "white space"),
        ("a.csv", [",Drug,Y", "0,CCO,1", "1,CCN,0"], ["CCO", "CCN"],
         "'Drug', by its content"),
        ("a.csv", ["CCO,1", "CCN,2"], ["CCO", "CCN"], "no header"),
        ("a.csv", ["N,CCO", "C,CCN", "C,CCF"], ["CCO", "CCN", "CCF"], "column 2"),
        ("a.smi", ["ethanol CCO", "benzene c1ccccc1"], ["CCO", "c1ccccc1"],
         "column 2, by its content"),
        ("a.smi", ["zinc_id smiles", "Z1 CCO"], ["CCO"], ""),
        ("a.smi", ["CCO\tethyl alcohol, pure", "CC\tethane"], ["CCO", "CC"], ""),
        ("a.smi", ["CCO smiles_1", "CCN smiles_2"], ["CCO", "CCN"], ""),
        ("a.smi", ["C[C@H](F)Cl |&1:1|", "CC |$;$|"], ["C[C@H](F)Cl", "CC"], ""),
        ("a.csv", ["# made by hand", "smiles", "CCO"], ["CCO"], ""),
        ("a.csv", ["#smiles,id", "CCO,1"], ["CCO"], ""),
        ("a.csv", ["sep=;", "smiles;x", "CCO;1", "CC;2"], ["CCO", "CC"], "semicolons"),
        ("a.smi", ["//// salts //", "CCO a", "// solvents", "CC"], ["CCO", "CC"], ""),
        ("a.txt", ["# http://here.org/CanonicalSMILES/json?of=many&as=a_very_long_text",
         "1\tx\tCCO", "2\ty\tCCN"], ["CCO", "CCN"], "column 3, by its content"),
        ("a.tsv", ["smiles\tname", 'CCO\t"5-one', 'CC\t"a ""b"""'], ["CCO", "CC"], ""),
        ("a.csv", ["smiles,num_smiles", "CCO,3"], ["CCO"], ""),
        ("a.txt", ['"smiles" "y"', '"1" "CCO" 0.5', '"2" "CCN" 1'], ["CCO", "CCN"], ""),
        ("a.csv", ["id,smiles", "1,CCO,,", "2,CCN,"], ["CCO", "CCN"], ""),
        ("a.csv", ["id", "1,CCO", "2,CCN"], ["CCO", "CCN"], "column '2', by its c"),
        ("a.csv", ["smiles,x,", "CCO,1,", "CC,2,,"], ["CCO", "CC"], ""),
    ],
)  # fmt: skip
def test_what_people_have(name, lines, expected, said):
    found = table(name, *lines)
    assert smiles(found) == expected
    assert (said in "".join(found.notes)) if said else not found.notes


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (
            ["smiles,canonical_smiles", "CCO,OCC"],
            "several .*: smiles, canonical_s",
        ),
        (["a,b", "CCO,CCN"], "several columns may be the SMILES: 1, 2|: a, b"),
        (["name,y", "ethanol,1"], "no column of SMILES found; name one of name, y"),
    ],
)
def test_what_is_not_clear_is_refused_with_the_field(lines, message):
    with pytest.raises(DataError, match=rf"{message}.*data\.smiles_column"):
        table("a.csv", *lines)


def test_a_column_is_named_or_numbered():
    lines = ["smiles,product", "CC,CCO"]
    assert smiles(table("a.csv", *lines, smiles="product")) == ["CCO"]
    assert smiles(table("a.smi", "CC CCO", "CC CCN", smiles="2")) == ["CCO", "CCN"]
    with pytest.raises(DataError, match="0 columns 'produkt' .*mean 'product'"):
        table("a.csv", *lines, smiles="produkt")
    # With a header there are names.
    with pytest.raises(DataError, match="0 columns '2'"):
        table("a.csv", *lines, smiles="2")


def test_ragged_rows_are_faults_and_no_more():
    found = table("a.csv", "smiles,logP", "CCO,-0.3", "CCN", "CCC,1,2", "CCF,0.2")
    rows = list(found.rows())
    assert [row.smiles for row in rows] == ["CCO", "", "", "CCF"]
    assert [row.fault and row.fault.found for row in rows] == [
        None, "1 field", "3 fields", None,
    ]  # fmt: skip
    assert [row.number for row in rows] == [2, 3, 4, 5]
    assert {row.fault.reason for row in rows if row.fault} == {"rows of another length"}


def test_values_are_never_taken_from_a_shifted_row():
    """White space inside a name would move the number behind it."""
    lines = ["smiles name logP", "CCO ethyl alcohol -0.3", "CC ethane 1.8"]
    found = table("a.smi", *lines, properties=("logP",))
    assert [row.values.get("logP") for row in found.rows()] == [None, "1.8"]


def test_an_open_quote_costs_its_row_alone():
    lines = ["smiles,name", '"CCO,a', "CC,b", 'CCN,"two', 'lines"', 'CCF,5" pipe']
    found = table("a.csv", *lines)
    rows = [(row.number, row.smiles) for row in found.rows()]
    assert rows == [(2, ""), (3, "CC"), (4, "CCN"), (6, "CCF")]
    assert list(split_rows([(1, '"a')], ",")) == [(1, None)]


@pytest.mark.parametrize(
    ("header", "values", "expected"),
    [
        ("SPLIT", ("train", "test"), "SPLIT"),
        ("split", ("0", "1"), "split"),
        ("set", ("train", "valid"), "set"),
        ("set", ("red", "blue"), None),
        ("scaffold_split", ("train", "test"), "scaffold_split"),
        ("kind", ("Training", "Validation"), "kind"),
        ("kind", ("tr", "te"), None),
    ],
)
def test_split_columns_are_found_by_their_names(header, values, expected):
    lines = [f"smiles,{header}", *(f"CCO,{value}" for value in values)]
    assert table("a.csv", *lines).split_column == expected
    assert table("a.csv", *lines, split="").split_column is None
    assert table("a.csv", *lines, split=header).split_column == header
