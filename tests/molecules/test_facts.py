"""What molecules teach of properties, and what cannot be asked for."""

import csv

import numpy as np
import pytest

pytest.importorskip("rdkit")
from rdkit import Chem

from ncgn_jax.faults import DataError
from ncgn_jax.molecules.facts import check_wanted, learn_facts
from ncgn_jax.molecules.sets import encode_molecules


def molecules(**properties):
    mols = [Chem.MolFromSmiles("C" * n) for n in range(2, 6)]
    found = encode_molecules(mols)
    for name, values in properties.items():
        found.properties[name] = np.asarray(values, np.float32)
    return found


@pytest.mark.parametrize(
    "values", [[300.05] * 4, [1e6, 1e6 + 0.1, 1e6, 1e6], [0] * 4, [5, np.nan, 5, 5]]
)
def test_a_condition_that_does_not_vary_is_refused(values):
    """`const` of moses_props.csv."""
    message = "model.conditions: 'const' is .* in every molecule.*leave it out"
    with pytest.raises(DataError, match=message):
        learn_facts(molecules(const=values), ("const",))


def test_values_far_out_are_refused_with_what_there_is():
    facts = learn_facts(molecules(mw=[200, 301, 250, np.nan]), ("mw",))
    check_wanted((301,), facts)
    check_wanted((), facts)
    message = r"condition_values: found mw 302; the training .* have 200 to 301"
    with pytest.raises(DataError, match=message):
        check_wanted((302,), facts)


def test_a_condition_of_a_file_reaches_the_facts(tmp_path):
    from ncgn_jax.molecules.files import load_molecules

    with (tmp_path / "a.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["smiles", "IC50 (nM)"])
        table.writerows([["CCO", 1.5], ["CCN", 3], ["CCF", ""]])
    loaded = load_molecules(
        tmp_path / "a.csv", max_atoms=4, property_columns=("IC50 (nM)",)
    )
    (facts,) = learn_facts(loaded.molecules, ("IC50 (nM)",)).properties
    assert (facts.name, facts.low, facts.high) == ("IC50 (nM)", 1.5, 3)
