"""Bytes in, bytes out: knows HTTP/2 and HTTP/1.1, never a tensor."""
