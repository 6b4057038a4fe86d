"""Drives nacos-sdk-python: one line for each case. 0.1.x speaks HTTP and blocks, 2.x and 3.x speak gRPC and are async."""
import asyncio
import logging
import multiprocessing
import os
import random
import subprocess
import sys
import tempfile
import time

VERSION = sys.argv[1]
MODE = os.environ["CORACLE_MODE"]
ADDRESSES = os.environ["CORACLE_SERVERS"]
RUN = "%08x" % random.getrandbits(32)
# More than there is time for in a rolling restart.
CHANGES = 200
OLD = VERSION.startswith("0.")
logging.disable(logging.CRITICAL)


class OldClient:
    """The blocking client, its callbacks as they come from its own threads."""

    def __init__(self, addresses, namespace, _labels):
        import nacos

        self.client = nacos.NacosClient(addresses, namespace=namespace, logDir=tempfile.mkdtemp())
        self.client.set_options(no_snapshot=True, pulling_timeout=30)

    async def start(self):
        self.poke = key("poke%08x" % random.getrandbits(32))
        await self.listen(self.poke, [])

    async def get(self, key):
        return await asyncio.to_thread(self.client.get_config, key, "G", no_snapshot=True)

    async def publish(self, key, content):
        return await asyncio.to_thread(self.client.publish_config, key, "G", content)

    async def remove(self, key):
        return await asyncio.to_thread(self.client.remove_config, key, "G")

    async def listen(self, key, heard):
        watch = self.client.add_config_watchers
        await asyncio.to_thread(watch, key, "G", [lambda change: heard.append(change["content"])])

    async def listen_now(self, key, heard):
        """It listens to a new key only when the poll that is under way has ended: a change of another key ends it."""
        await self.listen(key, heard)
        await asyncio.sleep(0.5)
        await self.publish(self.poke, "%08x" % random.getrandbits(32))
        await asyncio.sleep(0.5)

    async def close(self):
        pass


class NewClient:
    """The async client."""

    def __init__(self, addresses, namespace, labels):
        from v2.nacos import ClientConfigBuilder

        builder = ClientConfigBuilder().server_address(addresses).namespace_id(namespace).log_level("ERROR")
        folder = tempfile.mkdtemp()
        self.config = builder.log_dir(folder).cache_dir(folder).app_conn_labels(labels).build()

    async def start(self):
        from v2.nacos import NacosConfigService

        self.service = await NacosConfigService.create_config_service(self.config)

    def _param(self, key, **more):
        from v2.nacos import ConfigParam

        return ConfigParam(data_id=key, group="G", **more)

    async def get(self, key):
        return await self.service.get_config(self._param(key)) or None

    async def publish(self, key, content, **more):
        return await self.service.publish_config(self._param(key, content=content, **more))

    async def remove(self, key):
        return await self.service.remove_config(self._param(key))

    async def listen(self, key, heard):
        async def listener(_namespace, _group, _data_id, content):
            heard.append(content)

        await self.service.add_listener(key, "G", listener)

    async def listen_now(self, key, heard):
        await self.listen(key, heard)
        await asyncio.sleep(1)

    async def close(self):
        await self.service.shutdown()


async def client(addresses=ADDRESSES, namespace="", labels=None):
    made = (OldClient if OLD else NewClient)(addresses, namespace, labels or {})
    await made.start()
    return made


def key(name):
    return f"{RUN}-{name}"


async def until(what, seconds, condition):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {seconds} s")
        await asyncio.sleep(0.01)


async def publish_until_done(it, name, content, seconds=30):
    """A write may be refused while there is no leader; nothing was written then."""
    end = time.monotonic() + seconds
    while True:
        try:
            if await it.publish(name, content):
                return
        except Exception as error:  # the SDK raises many kinds
            if time.monotonic() > end:
                raise AssertionError(f"publish {content!r}: {error}")
        assert time.monotonic() < end, f"publish {content!r}: refused for {seconds} s"
        await asyncio.sleep(0.05)


async def servers(*command):
    run = [os.environ["SERVERS"], *command]
    return (await asyncio.to_thread(subprocess.run, run, check=True, stdout=subprocess.PIPE, text=True)).stdout


async def exact_bytes(it):
    for at, content in enumerate(["配置: 值 🎉", "a\r\nb\r\n", "tail  \n\n", "\ttab = 1 & 2 % + ?", "\ufeffbom"]):
        assert await it.publish(key(f"bytes{at}"), content)
        got = await it.get(key(f"bytes{at}"))
        assert got == content, f"{got!r} instead of {content!r}"


async def one_mebibyte(it):
    # The old client puts the content into the request line.
    content = "x配\n" * ((1 << 20) // 5) if not OLD else "x" * 40_000
    assert await it.publish(key("large"), content)
    assert await it.get(key("large")) == content


async def cas(it):
    import hashlib

    assert await it.publish(key("cas"), "one")
    right = hashlib.md5(b"one").hexdigest()
    assert await it.publish(key("cas"), "two", cas_md5=right)
    try:
        assert not await it.publish(key("cas"), "three", cas_md5=right)
    except AssertionError:
        raise
    except Exception:
        pass  # how the SDK tells it
    assert await it.get(key("cas")) == "two"


async def removal(it):
    await it.publish(key("gone"), "x")
    assert await it.remove(key("gone"))
    assert await it.get(key("gone")) is None


async def namespaces(it):
    other = await client(namespace=f"ns-{RUN}")
    await other.publish(key("ns"), "in the namespace")
    assert await it.get(key("ns")) is None
    assert await other.get(key("ns")) == "in the namespace"
    heard = []
    await other.listen_now(key("ns"), heard)
    await other.publish(key("ns"), "changed")
    await until("the change in a namespace", 10, lambda: "changed" in heard)
    await other.close()


async def listening(it):
    heard = []
    await it.publish(key("listen"), "zero")
    await it.listen_now(key("listen"), heard)
    for content in ["one", "two"]:
        await it.publish(key("listen"), content)
        await until(f"the change to {content}", 10, lambda: content in heard)
    count = len(heard)
    await it.publish(key("listen"), "two")
    await asyncio.sleep(1.5)
    assert len(heard) == count, f"told of the same content: {heard[count:]}"


async def delete_and_create(it):
    heard = []
    await it.publish(key("again"), "zero")
    await it.listen_now(key("again"), heard)
    if not OLD:
        # These list their keys every 5 s, and tell what they find then; the old one tells only of changes.
        await until("the first content", 10, lambda: "zero" in heard)
    await it.remove(key("again"))
    await until("the removal", 5, lambda: heard and not heard[-1])
    await it.publish(key("again"), "back")
    await until("the creation after a removal", 10, lambda: "back" in heard)


async def many(it, count):
    heard = [[] for _ in range(count)]
    for at in range(count):
        await it.listen(key(f"many{count}-{at}"), heard[at])
    await asyncio.sleep(2)
    some = range(0, count, count // 20)
    for at in some:
        await it.publish(key(f"many{count}-{at}"), "told")
    await until("all of 20", 30, lambda: all("told" in heard[at] for at in some))


async def publish_beta(it, ips, content):
    """Over HTTP where the client cannot."""
    if OLD:
        await servers("beta", "G", key("beta"), ips, content)
    else:
        assert await it.publish(key("beta"), content, beta_ips=ips)


async def beta(_it):
    it = await client()
    heard = []
    await it.publish(key("beta"), "formal")
    await it.listen_now(key("beta"), heard)
    await publish_beta(it, (await servers("mine")).strip(), "gray")
    await until("the gray version", 10, lambda: "gray" in heard)
    assert await it.get(key("beta")) == "gray"
    await servers("stop-beta", "G", key("beta"))
    await until("the formal version again", 10, lambda: heard[-1] == "formal")
    await publish_beta(it, "10.9.9.9", "for another")
    await asyncio.sleep(1.5)
    assert heard[-1] == "formal", f"told {heard[-1]!r}"
    assert await it.get(key("beta")) == "formal"
    await it.close()


async def tag(it):
    """A client with a label, beside one without."""
    tagged = await client(labels={"Vipserver-Tag": "t1"})
    heard = []
    await it.publish(key("tag"), "formal")
    await tagged.listen_now(key("tag"), heard)
    await servers("tag", "G", key("tag"), "t1", "gray")
    await until("the version of its tag", 10, lambda: "gray" in heard)
    assert await tagged.get(key("tag")) == "gray"
    assert await it.get(key("tag")) == "formal"
    await tagged.close()


async def two_nodes(_it):
    first, second = ADDRESSES.split(",")[:2]
    a, b = await client(first), await client(second)
    heard = []
    await b.listen_now(key("nodes"), heard)
    for at in range(20):
        content = f"at {at}"
        await a.publish(key("nodes"), content)
        got = await a.get(key("nodes"))
        assert got == content, f"read {got!r} after {content!r}"
        await until(f"{content} at the other node", 5, lambda: content in heard)
    await a.close()
    await b.close()


async def leader_killed(it):
    """With the only client of the process: the node that it is connected to is killed."""
    heard = []
    await it.publish(key("leader"), "before")
    await it.listen_now(key("leader"), heard)
    await servers("kill-leader")
    # By another client, at another node: this one has to find its way by itself.
    await servers("publish", "G", key("leader"), "after")
    # 2.x does not look at the end of its stream: it asks every 5 s, unless there was a request in the 5 s before, and needs
    # that long again then.
    await until("the change after it", 12 if VERSION.startswith("2.") else 5, lambda: "after" in heard)
    await asyncio.sleep(5)
    await servers("settle")


async def restarted(_it):
    it = await client()
    heard = []
    await it.publish(key("restart"), "before")
    await it.listen_now(key("restart"), heard)
    await servers("restart")
    await publish_until_done(it, key("restart"), "after")
    await until("the change after it", 40, lambda: "after" in heard)
    await it.close()


async def rolling(_it):
    """Each key changes once while every node is restarted: a change that is lost stays lost. No request may fail."""
    listening, asking = await client(), await client()
    heard = [[] for _ in range(CHANGES)]
    for at in range(CHANGES):
        await listening.listen(key(f"rolling{at}"), heard[at])
    await listening.listen_now(key("rolling"), [])
    restarts = asyncio.create_task(servers("rolling"))
    at, errors, acknowledged = 0, [], {}
    while not restarts.done():
        name, content = key(f"rolling{at % CHANGES}"), f"at {at}"
        try:
            if await asking.publish(name, content):
                acknowledged[at % CHANGES] = content
                got = await asking.get(name)
                if got != content:
                    errors.append(f"read {got!r} after {content!r}")
            else:
                errors.append(f"publish {content!r}: refused")
        except Exception as error:  # the SDK raises many kinds
            errors.append(f"{content}: {error}")
        at += 1
        await asyncio.sleep(0.05)
    await restarts
    missing = lambda: [content for at, content in acknowledged.items() if content not in heard[at]]
    try:
        await until("the changes", 10, lambda: not missing())
    except AssertionError:
        raise AssertionError(f"not told within 10 s: {missing()} of {at}, errors: {errors}")
    await listening.close()
    await asking.close()
    assert not errors, f"{len(errors)} of {at} changes: {errors[0]}"


async def main():
    it = await client()
    # First: the process has one client yet.
    cases = [("leader killed", leader_killed)] if MODE == "three" else []
    cases += [
        ("exact bytes", exact_bytes),
        ("a long request line" if OLD else "1 MiB", one_mebibyte),
        ("remove", removal),
        ("namespaces", namespaces),
        ("listen: first, second, same content", listening),
        ("listen: delete and create", delete_and_create),
        ("100 listeners", lambda it: many(it, 100)),
        ("beta", beta),
    ]
    if not OLD:
        # The old client has no compare-and-set and no labels, and pulls so many keys in processes of its own.
        cases += [("cas", cas), ("3000 listeners", lambda it: many(it, 3000)), ("tag", tag)]
    if MODE == "three":
        cases += [("two nodes", two_nodes), ("rolling restart", rolling)]
    cases += [("server restarted", restarted)]
    for name, case in cases:
        if os.environ.get("SDK_CASE", "") not in name:
            continue
        try:
            await asyncio.wait_for(case(it), 90)
            print(f"ok   python {VERSION} {MODE}: {name}", flush=True)
        except BaseException as error:
            print(f"FAIL python {VERSION} {MODE}: {name}: {type(error).__name__} {error}", flush=True)


asyncio.run(main())
sys.stdout.flush()
# The old client polls in processes of its own; they would keep the output open.
for child in multiprocessing.active_children():
    child.kill()
os._exit(0)
