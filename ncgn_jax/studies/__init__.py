"""Studies: what noise, schedules and noise-conditioning do, against exact answers.

Each is a command, `python -m ncgn_jax.studies.NAME [--workdir=...] [--quick]`, that
prints tables, says which claims of a paper hold and by how much, and writes
`results.json`, `report.md` and figures. They run on the schedules, conversions and
samplers of `ncgn_jax.process`, with predictors known in closed form in place of
networks, in float64.
"""
