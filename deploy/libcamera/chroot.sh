#!/usr/bin/env bash
# Makes a Debian trixie with GStreamer's libcamerasrc in it, as a folder to chroot into.
#   deploy/libcamera/chroot.sh FOLDER
# Runs as root and needs Debian's mirror; about 500 MB and two minutes. Nothing is fetched later.
set -euo pipefail
out=$1

trap 'rm -rf --one-file-system "$out.part"' EXIT
rm -rf --one-file-system "$out.part"
mmdebstrap --quiet --variant=minbase --aptopt='APT::Install-Recommends "false"' \
  --include=gstreamer1.0-libcamera,gstreamer1.0-tools,gstreamer1.0-plugins-good,gstreamer1.0-plugins-base \
  --include=libcamera-tools,libcamera-ipa \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' trixie "$out.part"
mv "$out.part" "$out"
