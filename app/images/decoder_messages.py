"""How the server and its decoders tell each other where a message ends. Imported by both, so it imports no Pillow."""

#: Bytes in front of a message, which tell its length.
PREFIX_SIZE = 4

#: What a decoder sends when it is ready for its first job.
READY = b"\1"
