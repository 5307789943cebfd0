"""An RTSP server that asks for a login by Digest, for the tests of cameras.

    echo "USER PASSWORD" | python3 rtsp_server.py PORT PATH=FILE...

Serves each Matroska file with H.264 or H.265 once to each client. The login is no argument: the tests
look for passwords among the arguments of all processes. PORT 0 is any free one. Prints the port once
it listens.
"""

import sys

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtsp, GstRtspServer

ROLE = "viewer"
RIGHTS = ("media.factory.access", "media.factory.construct")


def login(user, password):
    """Returns the guard that admits this user only."""
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    guard = GstRtspServer.RTSPAuth()
    guard.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
    guard.set_realm("camera")
    guard.add_digest(user, password, token)
    return guard


def clip(file):
    """Returns the factory of the streams of a file, whose name begins with its codec."""
    codec = "h265" if "h265" in file else "h264"
    factory = GstRtspServer.RTSPMediaFactory()
    factory.set_launch(
        f"( filesrc location={file} ! matroskademux ! {codec}parse ! "
        f"rtp{codec}pay name=pay0 pt=96 config-interval=-1 )"
    )
    # A client that comes back starts at the beginning.
    factory.set_shared(False)
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_role(ROLE)
    for right in RIGHTS:
        permissions.add_permission_for_role(ROLE, right, True)
    factory.set_permissions(permissions)
    return factory


def main(port, *clips):
    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(port)
    server.set_auth(login(*sys.stdin.readline().split()))
    for entry in clips:
        path, file = entry.split("=", 1)
        server.get_mount_points().add_factory(path, clip(file))
    if not server.attach(None):
        sys.exit("the port is in use")
    print(server.get_bound_port(), flush=True)
    GLib.MainLoop().run()


main(*sys.argv[1:])
