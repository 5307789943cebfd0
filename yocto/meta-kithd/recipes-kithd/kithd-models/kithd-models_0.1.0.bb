# The networks kithd uses when nothing else is configured, those of the pack in models/packs/bundled, as a package of their
# own: they change less often than the program, and are the same on every processor.
require sface.inc
