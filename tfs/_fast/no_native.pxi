# no_native.pxi: what a build without libnghttp2 has in place of the native transport: the knowledge that it lacks it.
#
# server.py asks HAVE_NATIVE before it touches NativeServer, and falls back to grpcio with a log line.

HAVE_NATIVE = False
