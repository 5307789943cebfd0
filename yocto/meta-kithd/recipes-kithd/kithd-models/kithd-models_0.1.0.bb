# The networks kithd uses when nothing else is configured, a package of their own: they change less often than the
# program, and are the same on every processor.
require kithd-pack.inc

SUMMARY = "Model pack of kithd: MTCNN detector and dlib's face recogniser"
DESCRIPTION = "Face detector and recogniser as ONNX networks in float32, float16 and int8, free for commercial use."
# The recogniser; the detector. The test picture is NASA's, in the public domain.
LICENSE = "CC0-1.0 & MIT"
KITHD_PACK = "dlib-mtcnn"
LIC_FILES_CHKSUM = "file://models/packs/dlib-mtcnn/LICENCES;md5=f8b91402df0cf9a4970402d1672fe79b"
