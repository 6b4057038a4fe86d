'use strict';
// Drives the Node client: one line for each case. It speaks HTTP v1. All its clients on a machine share one, whatever their
// namespace, so there is no case with two of them.
const { execFile } = require('child_process');
const { NacosConfigClient } = require('nacos');

const version = process.argv[2];
const mode = process.env.CORACLE_MODE;
const addresses = process.env.CORACLE_SERVERS;
const run = Math.random().toString(16).slice(2, 10);
const key = name => `${run}-${name}`;
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const servers = command =>
  new Promise((resolve, reject) => execFile(process.env.SERVERS, [command], err => (err ? reject(err) : resolve())));

function client() {
  const quiet = { info() {}, warn() {}, error() {}, debug() {} };
  const made = new NacosConfigClient({ serverAddr: addresses, requestTimeout: 6000, logger: quiet });
  made.on('error', () => {});
  return made;
}

async function until(what, ms, condition) {
  const end = Date.now() + ms;
  while (!condition()) {
    if (Date.now() > end) throw new Error(`${what}: not within ${ms} ms`);
    await sleep(10);
  }
}

async function publishUntilDone(it, name, content) {
  const end = Date.now() + 30000;
  for (;;) {
    try {
      if (await it.publishSingle(name, 'G', content)) return;
    } catch (err) {
      if (Date.now() > end) throw err;
    }
    if (Date.now() > end) throw new Error('refused for 30 s');
    await sleep(50);
  }
}

function listen(it, name) {
  const heard = [];
  it.subscribe({ dataId: name, group: 'G' }, content => heard.push(content));
  return heard;
}

function same(got, wanted) {
  if (got !== wanted) throw new Error(`${JSON.stringify(got)} instead of ${JSON.stringify(wanted)}`);
}

const cases = {
  async 'exact bytes'(it) {
    for (const [at, content] of ['配置: 值 🎉', 'a\r\nb\r\n', 'tail  \n\n', '\ttab = 1 & 2 % + ?'].entries()) {
      await it.publishSingle(key(`bytes${at}`), 'G', content);
      same(await it.getConfig(key(`bytes${at}`), 'G'), content);
    }
  },
  async '1 MiB'(it) {
    const content = 'x配\n'.repeat(1024 * 1024 / 5);
    await it.publishSingle(key('large'), 'G', content);
    same(await it.getConfig(key('large'), 'G'), content);
  },
  async remove(it) {
    await it.publishSingle(key('gone'), 'G', 'x');
    await it.remove(key('gone'), 'G');
    same(await it.getConfig(key('gone'), 'G'), null);
  },
  async 'listen: first, second, same content'(it) {
    await it.publishSingle(key('listen'), 'G', 'zero');
    const heard = listen(it, key('listen'));
    await sleep(1000);
    for (const content of ['one', 'two']) {
      await it.publishSingle(key('listen'), 'G', content);
      await until(`the change to ${content}`, 10000, () => heard.includes(content));
    }
    const count = heard.length;
    await it.publishSingle(key('listen'), 'G', 'two');
    await sleep(1500);
    same(heard.length, count);
  },
  async 'listen: delete and create'(it) {
    await it.publishSingle(key('again'), 'G', 'zero');
    const heard = listen(it, key('again'));
    await sleep(1000);
    await it.remove(key('again'), 'G');
    await sleep(500);
    await it.publishSingle(key('again'), 'G', 'back');
    // It listens to a new key only when the poll that is under way has ended.
    await until('the creation after a removal', 40000, () => heard.includes('back'));
  },
  async '100 listeners'(it) {
    const heard = [];
    for (let at = 0; at < 100; at++) heard.push(listen(it, key(`many-${at}`)));
    await sleep(2000);
    for (let at = 0; at < 100; at += 5) await it.publishSingle(key(`many-${at}`), 'G', 'told');
    await until('all of 20', 30000, () => heard.every((it, at) => at % 5 !== 0 || it.includes('told')));
  },
};

async function failover(it, command) {
  await it.publishSingle(key(command), 'G', 'before');
  const heard = listen(it, key(command));
  await sleep(1000);
  await servers(command);
  await publishUntilDone(it, key(command), 'after');
  await until('the change after it', 40000, () => heard.includes('after'));
}

if (mode === 'three') {
  cases['leader killed'] = async it => {
    await failover(it, 'kill-leader');
    await sleep(5000);
    await servers('settle');
  };
} else {
  cases['server restarted'] = it => failover(it, 'restart');
}

(async () => {
  const it = client();
  await it.ready();
  for (const [name, run] of Object.entries(cases)) {
    try {
      const late = sleep(90000).then(() => Promise.reject(new Error('not within 90 s')));
      await Promise.race([run(it), late]);
      console.log(`ok   node ${version} ${mode}: ${name}`);
    } catch (err) {
      console.log(`FAIL node ${version} ${mode}: ${name}: ${err.message}`);
    }
  }
  process.exit(0);
})();
