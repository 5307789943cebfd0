# Puts what kithd writes onto the data partition. For images with a read-only root, where /var/lib and /srv are
# otherwise memory (volatile-binds): kithd would accept pictures and lose them with the power.
SUMMARY = "Keeps the state and the inbox of kithd on a data partition"
# Who mounts the partition is up to the image: fstab, overlayfs-etc, Mender.
DESCRIPTION = "Mount units that bind folders of the data partition to /var/lib/kithd and /srv/kithd"
SECTION = "base"
CVE_PRODUCT = "kithd"
LICENSE = "MIT | Apache-2.0"
# nooelint: oelint.var.licenseremotefile - the two files below are all there is
LIC_FILES_CHKSUM = "\
    file://${COMMON_LICENSE_DIR}/MIT;md5=0835ade698e0bcf8506ecda2f7b4f302 \
    file://${COMMON_LICENSE_DIR}/Apache-2.0;md5=89aea4e17d99a7cacdbeed46a0096b10 \
"

SRC_URI = "\
    file://srv-kithd.mount \
    file://var-lib-kithd.mount \
"

inherit features_check systemd

REQUIRED_DISTRO_FEATURES = "systemd"

# Where the image mounts its data partition.
KITHD_DATA ?= "/data"

# Both follow the machine: where its data partition is, and how its kernel was built.
PACKAGE_ARCH = "${MACHINE_ARCH}"
FILES:${PN} += "\
    ${KITHD_DATA} \
    ${localstatedir}/lib/kithd \
    ${servicedir}/kithd \
"
RRECOMMENDS:${PN} += "kernel-module-overlay"

SYSTEMD_SERVICE:${PN} = "srv-kithd.mount var-lib-kithd.mount"

do_configure[noexec] = "1"
do_compile[noexec] = "1"

do_install() {
    units=${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}
    install -d "${D}${systemd_system_unitdir}"
    for unit in ${SYSTEMD_SERVICE:${PN}}; do
        sed 's#@KITHD_DATA@#${KITHD_DATA}#' "$units/$unit" > "${D}${systemd_system_unitdir}/$unit"
        chmod 0644 "${D}${systemd_system_unitdir}/$unit"
    done
    # What is mounted over must be there: nobody can make it on a read-only root.
    install -d "${D}${localstatedir}/lib/kithd" "${D}${servicedir}/kithd" "${D}${KITHD_DATA}"
}

