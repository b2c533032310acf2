"""The text-to-3D study: `python -m studies.sds_frontier`, whose help says what it measures.

`states` measures one checkpoint, `prices` times a step, `tables` and `verdict` make numbers and sentences of
both; `quality` trains; `figures` draws.
"""
