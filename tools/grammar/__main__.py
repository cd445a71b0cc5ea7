"""Writes the builtin corpus into the package; without a time, so that the file's bytes depend on its content alone."""

import gzip

from tools.grammar import CORPUS_FILE, corpus_csv

CORPUS_FILE.write_bytes(gzip.compress(corpus_csv(), compresslevel=9, mtime=0))
