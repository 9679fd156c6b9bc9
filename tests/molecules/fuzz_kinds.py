"""Files of molecules to spoil."""

import gzip
import io
import zipfile
from pathlib import Path

from ncgn_jax.molecules.files import load_molecules
from ncgn_jax.molecules.load import recognise
from ncgn_jax.molecules.qm9 import load_qm9
from tests.spoilt_files import Kind


def qm9_wheel() -> bytes:
    """Makes a wheel with the three tables of QM9, of three molecules each."""
    header = "SMILES,Dipole_debye,Polarizability_bohr3,HOMO_LUMO_gap_au\n"
    rows = "CCO,1.,2,0.25\nC#N,2.,1,0.5\nc1cc[nH]c1,0.5,3,0.125\n"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for part in (1, 2, 3):
            archive.writestr(f"qm9pack/data/qm9_part{part}.csv", header + rows)
    return stream.getvalue()


SMILES = b"CCO ethanol\nC1CC1\nc1ccccc1\nC#N\nOC=O\n"
TABLE = b"name,smiles,gap\na,CCO,0.1\nb,C#N,0.2\nc,CC(=O)O,\n"
RECORD = b"""ethanol
     RDKit          2D

  3  2  0  0  0  0  0  0  0  0999 V2000
    0.0000    0.0000    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    1.2990    0.7500    0.0000 C   0  0  0  0  0  0  0  0  0  0  0  0
    2.5981   -0.0000    0.0000 O   0  0  0  0  0  0  0  0  0  0  0  0
  1  2  1  0
  2  3  1  0
M  END
>  <gap>  (1)
0.25

$$$$
"""


SEMICOLONS = (
    b"Name;Drug;IC50 (nM);split\r\n"
    b'"a;b";CCO;0,5;train\r\n"c ""d""";C#N;;test\r\ne;CC(=O)O;1,5;train\r\n'
)
V3000 = b"""ethane
     RDKit          2D

  0  0  0  0  0  0  0  0  0  0999 V3000
M  V30 BEGIN CTAB
M  V30 COUNTS 2 1 0 0 0
M  V30 BEGIN ATOM
M  V30 1 C 0.000000 0.000000 0.000000 0
M  V30 2 C 1.299038 0.750000 0.000000 0
M  V30 END ATOM
M  V30 BEGIN BOND
M  V30 1 1 1 2
M  V30 END BOND
M  V30 END CTAB
M  END
>  <note>
two
lines

$$$$
"""


def zipped() -> bytes:
    """Makes an archive with files that name splits."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("set/train.smi", SMILES)
        archive.writestr("set/test.smi", b"CCF\nCCCl\n")
        archive.writestr("set/__MACOSX/._test.smi", b"\0\0")
        archive.writestr("set/README.md", b"molecules")
    return stream.getvalue()


def parquet() -> bytes:
    """Makes a table of three molecules."""
    import pyarrow
    from pyarrow import parquet

    stream = io.BytesIO()
    columns = {"smiles": ["CCO", "C#N", None], "gap": [0.5, None, 1.5]}
    parquet.write_table(pyarrow.table(columns), stream)
    return stream.getvalue()


def read(path: Path):
    return load_molecules(path, max_atoms=9, salts="largest")


def read_gap(path: Path):
    return load_molecules(path, max_atoms=9, property_columns=("gap",))


KINDS = (
    Kind("s.smi", lambda: SMILES, read, "rdkit"),
    Kind("s.smi.gz", lambda: gzip.compress(SMILES, mtime=0), read, "rdkit"),
    Kind("t.csv", lambda: TABLE, read_gap, "rdkit"),
    Kind(
        "t.tsv",
        lambda: SEMICOLONS,
        lambda p: load_molecules(p, max_atoms=9, property_columns=("IC50 (nM)",)),
        "rdkit",
    ),
    Kind("t.txt", lambda: TABLE.decode().encode("utf-16"), read, "rdkit"),
    Kind("t.parquet", parquet, read_gap, "pyarrow"),
    Kind("r.sdf", lambda: RECORD, read_gap, "rdkit"),
    Kind("v.sdf", lambda: V3000 + RECORD + V3000, read, "rdkit"),
    Kind("m.mol", lambda: RECORD.partition(b">  <")[0], read, "rdkit"),
    Kind("a.zip", zipped, read, "rdkit"),
    Kind("look.csv", lambda: SEMICOLONS, recognise, "rdkit"),
    Kind(
        "q.whl",
        qm9_wheel,
        lambda p: load_qm9(p, num_train=4, num_validation=1),
        "rdkit",
    ),
)
