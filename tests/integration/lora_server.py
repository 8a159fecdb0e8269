"""llama.cpp's own server with LoRA adapters: `python lora_server.py PORT MODEL ADAPTER…`."""

import sys
import threading

import xllamacpp

port, model, *adapters = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = model
params.hostnames, params.port = ["127.0.0.1"], int(port)
params.n_parallel, params.n_ctx, params.ui, params.verbosity = 1, 512, False, 2
loaded = []
for path in adapters:
    info = xllamacpp.CommonAdapterLoraInfo()
    info.path, info.scale = path, 0.0
    loaded.append(info)
params.lora_adapters = loaded
server = xllamacpp.Server(params)
print(f"listening on {server.listening_address}", flush=True)
threading.Event().wait()
