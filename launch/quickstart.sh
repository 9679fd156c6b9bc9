#!/usr/bin/env bash
# Draws shapes of the shipped model, then trains a small one, samples, evaluates and
# draws: launch/quickstart.sh [--config.x=y]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
echo "1. The shipped model of shapes:"
"$PYTHON" -m ncgn_jax.command sample shapes runs/shapes.png --num=16 --steps=8
echo
echo "2. A small model, trained from nothing:"
"$PYTHON" -m ncgn_jax.main --config=configs/quickstart.py "$@"
cat <<END

What next ($ENVIRONMENT/bin has python and ncgn):
  ncgn sample shapes chairs.png --label=chair    the shipped model: shapes, digits, qm9, turing
  ncgn sample runs/quickstart mine.ply           the model that was just trained
  ncgn train --config=modelnet --config.data.path=FOLDER    your own clouds or meshes
  ncgn --help                                    completion, imputation, export, comparison
END
