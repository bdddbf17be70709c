"""The applications, in the order of the table."""

from .databases import MariaDb, Postgres
from .limits import IoUring, Multipath, PostgresPosix, SharedVolume
from .mail import Mail
from .memcached import Memcached
from .nginx import Nginx
from .openmp import OpenMp
from .redis import Redis, RedisVolume
from .sessions import Asyncio, Go, Jvm, Node
from .ssh import Ssh
from .streams import Icecast, Video

APPS = {app.name: app for app in (Redis, RedisVolume, Postgres, MariaDb, Memcached, Nginx, Icecast, Video, Mail, Node, Asyncio, Jvm, Go, Ssh, OpenMp,
                                 SharedVolume, PostgresPosix, IoUring, Multipath)}
