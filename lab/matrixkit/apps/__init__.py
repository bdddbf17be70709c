"""The applications, in the order of the table."""

from .databases import MariaDb, Postgres
from .limits import IoUring, Multipath, PostgresPosix, Volume
from .mail import Mail
from .memcached import Memcached
from .nginx import Nginx
from .openmp import OpenMp
from .redis import Redis
from .sessions import Asyncio, Go, Jvm, Node
from .ssh import Ssh
from .streams import Icecast, Video

APPS = {app.name: app for app in (Redis, Postgres, MariaDb, Memcached, Nginx, Icecast, Video, Mail, Node, Asyncio, Jvm, Go, Ssh, OpenMp,
                                 Volume, PostgresPosix, IoUring, Multipath)}
