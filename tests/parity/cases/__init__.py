"""One module per model. A module offers some of:

- `KINDS`: the stem of a kind of case -> its maker, called as `maker(rng, folder, dtype)`, which writes one case of random
  sizes with `shared.write_case`;
- `DTYPES`: a stem of `KINDS` -> the dtypes beside float32 in which cases are made. The config's `"dtype"` tells the golden
  runner, which has a tolerance of its own for half precision (`tests/golden/checks.rs`);
- `SETS`: a stem -> a maker of a whole set of cases, called once as `maker(out)`;
- `COUNTS`: a preset's `model` -> a function from its `config` to its number of parameters (see parameters.py).
"""
