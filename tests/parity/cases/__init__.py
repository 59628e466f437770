"""One module per model. What a module offers is its `KINDS`: the stem of a kind of case -> its maker.

A maker is called as `maker(rng, folder, dtype)` and writes one case of random sizes with `shared.write_case`. A module may
also have `DTYPES`, a stem -> the dtypes beside float32 in which its cases are made (the golden runner reads `"dtype"`
from the case's config and has a tolerance of its own for each).
"""
