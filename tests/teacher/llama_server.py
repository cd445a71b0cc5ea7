"""Start llama.cpp's OpenAI-compatible server, of llama-cpp-python: `python llama_server.py --model FILE --port PORT`.

It is the server's own program. Only the repacking of weights is off, which crashes on some virtual machines with AMX.
"""

import llama_cpp.llama
from llama_cpp.server.__main__ import main

default_params = llama_cpp.llama.llama_cpp.llama_model_default_params


def without_repacking():
    params = default_params()
    params.use_extra_bufts = False
    return params


llama_cpp.llama.llama_cpp.llama_model_default_params = without_repacking
main()
