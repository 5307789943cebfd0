# The smallest image that boots to kithd's page on port 8000, by DHCP on the wired network. Nobody can log in: to enrol
# people, add a way in (yocto/README.md).
SUMMARY = "Image that boots to a working kithd page"
DESCRIPTION = "Read-only root, everything kithd writes on a data partition, a broker where meta-networking is there."
SECTION = "images"
LICENSE = "MIT | Apache-2.0"

inherit core-image features_check

REQUIRED_DISTRO_FEATURES = "systemd"

# The data partition as the kernel names it; the machine's disk layout must have it. Empty: the root is writable and
# holds everything.
KITHD_DATA_DEVICE ?= ""
# nooelint: oelint.vars.specific - what meta-raspberrypi's machines have in common
KITHD_DATA_DEVICE:rpi ?= "/dev/mmcblk0p3"
# nooelint: oelint.vars.mispell.unknown - for the .wks.in below
KITHD_DATA_SIZE ?= "2G"
# nooelint: oelint.vars.specific - what meta-raspberrypi's machines have in common
WKS_FILE:rpi = "kithd-raspberrypi.wks.in"

# With overlayfs-etc what is changed below /etc is kept on the data partition, and is there before systemd starts:
# kithd.toml, host name and keys, and the drop-ins that `kithd allow` writes.
IMAGE_FEATURES += "${@'overlayfs-etc read-only-rootfs' if d.getVar('KITHD_DATA_DEVICE') else ''}"
OVERLAYFS_ETC_DEVICE = "${KITHD_DATA_DEVICE}"
OVERLAYFS_ETC_FSTYPE = "ext4"
OVERLAYFS_ETC_MOUNT_POINT = "/data"
OVERLAYFS_ETC_MOUNT_OPTIONS = "noatime"
# The folders it mounts on are in the image: it need not make the root writable to create them.
OVERLAYFS_ETC_CREATE_MOUNT_DIRS = "0"

# A broker elsewhere does as well: mqtt.url in kithd.toml. So this layer does not demand the one with mosquitto.
KITHD_BROKER ?= "${@bb.utils.contains('BBFILE_COLLECTIONS', 'networking-layer', 'mosquitto', '', d)}"

IMAGE_INSTALL = "\
    packagegroup-core-boot \
    kithd \
    ${@'kithd-data' if d.getVar('KITHD_DATA_DEVICE') else ''} \
    ${KITHD_BROKER} \
    ${CORE_IMAGE_EXTRA_INSTALL} \
"
IMAGE_LINGUAS = ""
