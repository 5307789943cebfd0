#!/usr/bin/env bash
# Builds the emulated board's boot files: a kernel, a small initramfs and a Debian bookworm root.
#   deploy/vm/image.sh FOLDER arm64|amd64    leaves vmlinuz, initrd.gz, root.img and an SSH key pair in FOLDER
# Runs as root and needs Debian's package mirror; the board itself needs no network afterwards.
set -euo pipefail
out=$1 arch=$2
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf 'image: %s\n' "$*" >&2; }

# Packages are configured by programs of the board's architecture, which the kernel must run with qemu-user.
if [[ $arch == arm64 && $(dpkg --print-architecture) != arm64 ]]; then
  register=/proc/sys/fs/binfmt_misc
  [[ -e $register/register ]] || mount -t binfmt_misc binfmt_misc "$register"
  [[ -e $register/qemu-aarch64 ]] || cat /usr/lib/binfmt.d/qemu-aarch64.conf >"$register/register"
fi

packages=(
  systemd systemd-sysv dbus udev kmod openssh-server iproute2 procps util-linux acl   # the board
  mosquitto mosquitto-clients nfs-kernel-server nfs-common curl sqlite3 v4l-utils     # around kithd
  busybox-static                                                                     # for the initramfs
)

say "making the root: ${#packages[@]} packages and what they need"
# The kernel's package stays out: its update-initramfs would take a quarter of an hour under emulation.
# $APT_CONFIG of the hook is that of the new root, so "apt-get download" brings a package for the board.
# shellcheck disable=SC2016 # expanded by the hook's shell
mmdebstrap --quiet --arch="$arch" --variant=minbase --include="$(IFS=,; echo "${packages[*]}")" \
  --dpkgopt='path-exclude=/usr/share/man/*' --dpkgopt='path-exclude=/usr/share/locale/*' \
  --dpkgopt='path-exclude=/usr/share/doc/*' \
  --customize-hook='export APT_CONFIG=$MMDEBSTRAP_APT_CONFIG && cd "'"$work"'" &&
    apt-get download -qq -o APT::Sandbox::User=root \
      "$(apt-cache depends linux-image-'"$arch"' | sed -n "s/.*Depends: //p" | head -n 1)"' \
  bookworm "$work/root"

say "adding the kernel"
dpkg -x "$work"/linux-image-*.deb "$work/kernel"
cp "$work"/kernel/boot/vmlinuz-* "$out/vmlinuz"
version=$(basename "$work"/kernel/lib/modules/*)
mkdir -p "$work/root/lib/modules"
cp -a "$work/kernel/lib/modules/$version" "$work/root/lib/modules/"
depmod -b "$work/root" "$version"

say "making the initramfs"
mkdir -p "$work/initrd"/{bin,proc,sys,dev,root}
cp "$work/root/bin/busybox" "$work/initrd/bin/"
for module in virtio_pci virtio_blk virtio_net virtio_rng ext4 crc32c_generic; do
  modprobe -d "$work/root" -S "$version" --show-depends "$module"
done | awk -v root="$work/root" '$1 == "insmod" && !seen[$2]++ { sub("^" root, "", $2); print $2 }' \
  >"$work/initrd/modules"
while read -r module; do
  mkdir -p "$work/initrd$(dirname "$module")"
  cp "$work/root$module" "$work/initrd$module"
done <"$work/initrd/modules"
cat >"$work/initrd/init" <<'INIT'
#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
while read -r module; do insmod "$module"; done </modules
until [ -b /dev/vda ]; do sleep 0.1; done
mount -t ext4 -o rw,noatime /dev/vda /root
# The address that QEMU's user network expects; systemd finds the network as it is.
ip address add 10.0.2.15/24 dev eth0
ip link set eth0 up
umount /sys /proc
mount --move /dev /root/dev
exec switch_root /root /sbin/init
INIT
chmod +x "$work/initrd/init"
(cd "$work/initrd" && find . | cpio --quiet -o -H newc | gzip -9) >"$out/initrd.gz"

say "settling the root in"
root=$work/root
rm "$root"/etc/dpkg/dpkg.cfg.d/99mmdebstrap # kithd's manual is wanted
rm -f "$out"/key "$out"/key.pub
ssh-keygen -q -t ed25519 -N '' -C board -f "$out/key"
install -D -m 600 "$out/key.pub" "$root/root/.ssh/authorized_keys"
# One host key is enough, and PAM would start a login session for every command.
rm -f "$root"/etc/ssh/ssh_host_{rsa,ecdsa}_key*
printf '%s\n' 'HostKey /etc/ssh/ssh_host_ed25519_key' 'UsePAM no' 'UseDNS no' 'MaxStartups 100' 'MaxSessions 100' \
  >"$root/etc/ssh/sshd_config.d/board.conf"
echo board >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 board\n' >"$root/etc/hosts"
echo '# The initramfs mounts the root.' >"$root/etc/fstab"
tr -d - </proc/sys/kernel/random/uuid >"$root/etc/machine-id"
# A broker without password for the whole board, with persistence as docs/install.md requires.
printf '%s\n' 'listener 1883 0.0.0.0' 'allow_anonymous true' 'autosave_interval 1' 'set_tcp_nodelay true' \
  'max_queued_messages 0' >"$root/etc/mosquitto/conf.d/board.conf"
systemctl --root="$root" --quiet enable mosquitto ssh
systemctl --root="$root" --quiet disable nfs-server nfs-client.target rpcbind.service rpcbind.socket
# Disables services that would delay a board that is switched on and off ten times.
systemctl --root="$root" --quiet mask apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
  e2scrub_all.timer e2scrub_reap.service fstrim.timer serial-getty@ttyAMA0.service serial-getty@ttyS0.service \
  getty@tty1.service \
  systemd-logind.service systemd-user-sessions.service systemd-update-utmp.service systemd-udev-trigger.service \
  proc-sys-fs-binfmt_misc.automount systemd-binfmt.service
mke2fs -q -t ext4 -L board -d "$root" "$out/root.img.new" 3G
mv "$out/root.img.new" "$out/root.img"
say "$(du -h "$out/root.img" | cut -f1) of root, kernel $version"
