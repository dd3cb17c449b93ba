"""Fewer bytes for gradients and values on slow links: codecs of chunks, without a word about the wire.

encodings.py   every value in fewer bits: bf16, fp16, int8 in blocks
sparse.py      some values at their places, all others 0
selection.py   which values of a gradient are sent now: the largest ones, the significant ones
residual.py    what was not sent is kept, and sent later
config.py      what a store can be told
"""
