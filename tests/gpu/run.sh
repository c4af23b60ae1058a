#!/usr/bin/env bash
# What only a GPU can tell: pycuda, our execution, TensorRT's engines, and training. Without one all is skipped.
#
#   run.sh [PYTHON] [PYTEST ARGUMENTS]      (default: .venv's)
#
# pycuda is installed into that environment from source where it is not, and CUDA's headers are found ($CUDA_ROOT, nvcc
# on the path, or /usr/local/cuda). TensorRT is taken as it is: JetPack's, or what was installed by hand.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
cd "$here/../.."
python=${1:-.venv/bin/python}
shift || true

told=$("$python" -c 'from edge_app.nvidia.driver import probe
gpu = probe()
print(f"no: {gpu}" if isinstance(gpu, str) else f"{gpu.name}, {gpu.architecture}, CUDA {gpu.cuda}")')
reasons=-rs
case $told in
  no:*)
    echo "There is no GPU to test on: ${told#no: }."
    reasons=
    ;;
  *)
    echo "GPU: $told"
    if ! "$python" -c 'import pycuda.driver' 2>/dev/null; then
      nvcc=$(command -v nvcc || true)
      cuda=${CUDA_ROOT:-${nvcc:+$(dirname "$(dirname "$nvcc")")}}
      cuda=${cuda:-/usr/local/cuda}
      if [ -f "$cuda/include/cuda.h" ]; then
        echo "Installing pycuda from source with $cuda; it takes minutes ..."
        PATH=$cuda/bin:$PATH CPLUS_INCLUDE_PATH=$cuda/include LIBRARY_PATH=$cuda/lib64/stubs:$cuda/lib64 \
          "$python" -m pip install -qq 'pycuda>=2024.1' || echo "pycuda cannot be installed; what needs it is skipped"
      else
        echo "no CUDA headers in $cuda: set CUDA_ROOT; what needs pycuda is skipped"
      fi
    fi
    ;;
esac
# Their names are not those of tests, so that `make test` does not find them.
exec "$python" -m pytest -q $reasons "$here"/check_*.py "$@"
