"""The logins of a database of its own, as tests of storage have them."""

from ..storage.conftest import logins as logins
