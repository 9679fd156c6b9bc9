"""Files of molecules to spoil."""

import io
import zipfile

from ncgn_jax.molecules.files import load_molecules
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


KINDS = (
    Kind("s.smi", lambda: SMILES, lambda p: load_molecules(p, max_atoms=9), "rdkit"),
    Kind(
        "t.csv",
        lambda: TABLE,
        lambda p: load_molecules(p, max_atoms=9, property_columns=("gap",)),
        "rdkit",
    ),
    Kind("r.sdf", lambda: RECORD, lambda p: load_molecules(p, max_atoms=9), "rdkit"),
    Kind(
        "q.whl",
        qm9_wheel,
        lambda p: load_qm9(p, num_train=4, num_validation=1),
        "rdkit",
    ),
)
