"""How the cameras of a batch may be spread; known without torch."""

SAMPLINGS = ("iid", "stratified", "antipodal", "sobol")
