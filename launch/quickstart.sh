#!/usr/bin/env bash
# Trains a small model, samples, evaluates and draws: launch/quickstart.sh [--config.x=y]
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/setup_env.sh"
exec "$PYTHON" -m ncgn_jax.main --config=configs/quickstart.py "$@"
