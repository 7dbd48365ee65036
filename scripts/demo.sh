#!/usr/bin/env bash
# Walk the model owner's journey from a folder to an approved association, showing every command.
# Usage: demo.sh [process|docker|singularity]      Everything it makes is in .demo/ of the checkout.
set -euo pipefail

platform=${1:-process}
top=$(cd "$(dirname "$0")/.." && pwd)
export MEDPERF_HOME=$top/.demo/home
rm -rf "$top/.demo"
mkdir -p "$top/.demo"
cd "$top/.demo"

bold='' cyan='' plain=''
[ ! -t 1 ] || { bold=$'\033[1m' cyan=$'\033[36m' plain=$'\033[0m'; }
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
run() { printf '\n%s$%s%s\n' "$cyan" "$(printf ' %q' "$@")" "$plain"; "$@"; }

say "A benchmark of your own: an embedded server, demo data, three containers (platform: $platform)"
run medperf --platform "$platform" tutorial start model

say "1. You are a model owner. Which benchmarks are there?"
run medperf benchmark ls

say "2. Does your model work with benchmark 1? Its tasks run on this machine; nothing leaves it."
run medperf test run --benchmark 1 --model medperf_tutorial/MODEL/mlcube/mlcube.yaml

say "3. Package it: everything that you would host, with its hashes"
run medperf mlcube package medperf_tutorial/MODEL/mlcube

say "4. Register it. What is sent is shown; --yes answers for you in this demo."
hosted=$(python3 -c 'import pathlib; print(pathlib.Path("medperf_tutorial/model_mlp/mlcube/deploy").resolve().as_uri())')
run medperf mlcube submit --name my-modelref-cube --mlcube-file "$hosted/mlcube.yaml" \
    --parameters-file "$hosted/parameters.yaml" --additional-file "$hosted/additional_files.tar.gz" --yes
run medperf mlcube ls --mine

say "5. Ask to take part in benchmark 1. The registered files are tested first, then you are asked."
run medperf mlcube associate --benchmark 1 --model_uid 4 --yes
run medperf association ls

say "6. Now you are the benchmark's committee, and approve"
run medperf profile activate tutorial-committee
run medperf association approve --benchmark 1 --mlcube 4 --yes
run medperf association ls

say "The result of the test that came with the request"
run medperf profile activate tutorial-model-owner
run medperf test view

say "Done. What to try next, with this demo's home folder:"
cat <<TXT
  cd $(printf %q "$PWD") && export MEDPERF_HOME=$(printf %q "$MEDPERF_HOME") PATH=$(printf %q "$top/.venv/bin"):"\$PATH"
  medperf mlcube create model --benchmark 1 --output my_model     # start a model of your own
  medperf test run --benchmark 1 --model my_model/mlcube
  medperf container run --container my_model --task infer --help  # the author's loop, one task at a time
  medperf site audit                                              # all that left this machine
  medperf doctor
TXT
