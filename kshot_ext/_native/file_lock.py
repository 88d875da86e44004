"""The kernel's lock on an open file, taken in the way that works on network file systems too.

An NFS client turns flock(2) into a write lock on all bytes of the file, which a descriptor opened read-only cannot have
(flock(2), "NFS details"). So lock only what is open for writing, and no folder.
"""

import errno
import fcntl

# NFS without a lock daemon, FUSE and Lustre without flock, 9p.
_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EINVAL}


class LocksUnsupportedError(OSError):
    """The file system of a file has no locks."""


def try_lock(descriptor: int) -> bool:
    """Take the lock that the kernel frees when its holder dies, however it dies.

    Args:
        descriptor: of a file open for writing.

    Returns:
        Whether it was free.

    Raises:
        LocksUnsupportedError: if the file system has no locks.
        OSError: if it cannot be taken for another reason.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES):  # the last where locks are fcntl's
            return False
        if error.errno in _UNSUPPORTED:
            raise LocksUnsupportedError(error.errno, f"this file system has no locks: {error.strerror}") from error
        raise
    return True
