# kithd, the daemon. Where its source is: kithd-source.inc; its crates: kithd-crates.inc, made by
# `bitbake -c update_crates kithd`; how it is built: kithd.inc.
require kithd-source.inc
require kithd-crates.inc
require kithd.inc
