"""Uses the client that openapi-python-client made of a running kithd's /openapi.json, and nothing else.

    python3 client.py URL TOKEN PICTURE ANOTHER_PICTURE

Expects that nobody is enrolled; both pictures show one person.
"""

import sys
import time
from pathlib import Path

from kithd_client import AuthenticatedClient
from kithd_client.api.board import show, status
from kithd_client.api.images import face, identify, image, images, picture, thumbnail
from kithd_client.api.people import add_picture, enroll, people, person, rename
from kithd_client.models import OnePath, Rename
from kithd_client.types import File

url, token, first, second = sys.argv[1:]
client = AuthenticatedClient(base_url=url, token=token)


def opened(path):
    return File(payload=open(path, "rb"), file_name=Path(path).name)


assert people.sync(client=client).people == []
ann = enroll.sync(client=client, body=opened(first), name="Ann").person
assert (ann.name, ann.pictures) == ("Ann", 1), ann
assert add_picture.sync(ann.id, client=client, body=opened(second)).person.pictures == 2
assert rename.sync(ann.id, client=client, body=Rename(name="Anna")).name == "Anna"
page = people.sync(client=client, limit=1)
assert ([one.name for one in page.people], page.next_cursor) == (["Anna"], None), page
assert len(person.sync(ann.id, client=client).images) == 2

assert identify.sync(client=client, body=opened(second)).faces[0].person.name == "Anna"
sent = picture.sync(client=client, body=opened(second), name="again.jpg")
found = None
for _ in range(600):
    found = image.sync(sent.ids[0], client=client)
    if found.state in ("processed", "failed"):
        break
    time.sleep(0.1)
assert (found.state, found.outcome, found.found[0].person) == ("processed", "known", "Anna"), found
assert [one.id for one in images.sync(client=client, person=ann.id).images] == sent.ids
for picture_of in (thumbnail.sync_detailed(found.id, client=client), face.sync_detailed(found.id, "1.jpg", client=client)):
    assert picture_of.status_code == 200 and picture_of.content[:2] == b"\xff\xd8"
refused = picture.sync(client=client, body=OnePath(path="/etc/passwd"))
assert refused.status == 422, refused
assert status.sync(client=client).counts.processed == 1
assert show.sync(client=client).breaker.state == "closed"
print("The generated client lists, enrols, identifies and submits.")
