"""From a video file to time-aligned snippets: probe, plan, demux, decode, sound, assembly.

The public face is `probe`, `Sampling` and `read_snippets`; `demux`, `decode_segment` and `Assembler` are the same
path in pieces, for running the decoding elsewhere.
"""
