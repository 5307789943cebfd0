# A pack beside the bundled one: kithd uses it once models.pack in kithd.toml names its folder.
require recipes-kithd/kithd-models/dlib-mtcnn.inc
