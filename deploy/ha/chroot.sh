#!/usr/bin/env bash
# Makes a Debian with Home Assistant in it, as a folder to chroot into.
#   deploy/ha/chroot.sh FOLDER
# Runs as root and needs Debian's mirror and PyPI; about 1.5 GB and five minutes. Nothing is fetched later.
set -euo pipefail
out=$1
version=2026.2.3 # the newest for Python 3.13, which Debian trixie has

say() { printf 'ha: %s\n' "$*" >&2; }

# What is still mounted there must not be deleted.
clean() {
  local at
  for at in proc dev; do ! mountpoint -q "$out.part/$at" || umount "$out.part/$at" || return; done
  rm -rf --one-file-system "$out.part"
}
trap clean EXIT
clean
say "making the root"
mmdebstrap --quiet --variant=minbase --include=python3.13-dev,python3.13-venv,gcc,libc6-dev,ca-certificates,tzdata \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' trixie "$out.part"
# A proxy's certificate may be among this machine's.
cp /etc/ssl/certs/ca-certificates.crt "$out.part/etc/ssl/certs/"
cp /etc/resolv.conf "$out.part/etc/"
mount -t proc proc "$out.part/proc"
mount --bind /dev "$out.part/dev"

inside() { chroot "$out.part" /usr/bin/env -u PIP_FIND_LINKS HOME=/root LANG=C.UTF-8 "$@"; }
say "installing Home Assistant $version"
inside python3.13 -m venv /ha
pip=(inside PIP_DISABLE_PIP_VERSION_CHECK=1 /ha/bin/pip install -q --no-cache-dir)
"${pip[@]}" "homeassistant==$version"
# Requirements of the integrations that the test uses, which Home Assistant would fetch at its start.
inside /ha/bin/python - >"$out.part/requirements.txt" <<'PYTHON'
import json, pathlib, homeassistant.components
root = pathlib.Path(homeassistant.components.__path__[0])
todo = ["mqtt", "http", "api", "config", "logger", "recorder", "history", "automation", "onboarding", "websocket_api",
        "event", "image", "sensor", "binary_sensor", "select", "device_automation", "persistent_notification", "script"]
seen, wanted = set(), set()
while todo:
    name = todo.pop()
    if name in seen or not (root / name / "manifest.json").exists():
        continue
    seen.add(name)
    manifest = json.loads((root / name / "manifest.json").read_text())
    wanted.update(manifest.get("requirements", []))
    todo += manifest.get("dependencies", [])
print("\n".join(sorted(wanted)))
PYTHON
constraints=$(cd "$out.part" && find ha/lib -name package_constraints.txt -path '*/homeassistant/*')
"${pip[@]}" -c "/$constraints" -r /requirements.txt
umount "$out.part/proc" "$out.part/dev"
mv "$out.part" "$out"
say "made $out"
