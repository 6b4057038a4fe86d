'use strict';
// Drives the Node client: one line for each case. It speaks HTTP v1. All its clients on a machine share one, whatever their
// namespace, unless a process has another NODE_CLUSTER_CLIENT_PORT: such is the second client, which has a namespace.
const { execFile, fork } = require('child_process');
const { NacosConfigClient } = require('nacos');

const version = process.argv[2];
const mode = process.env.CORACLE_MODE;
const addresses = process.env.CORACLE_SERVERS;
const run = Math.random().toString(16).slice(2, 10);
const key = name => `${run}-${name}`;
const sleep = ms => new Promise(resolve => setTimeout(resolve, ms));
const servers = (...command) =>
  new Promise((resolve, reject) => execFile(process.env.SERVERS, command, err => (err ? reject(err) : resolve())));

// More than there is time for in a rolling restart.
const CHANGES = 200;

function client(namespace = '') {
  const quiet = { info() {}, warn() {}, error() {}, debug() {} };
  const made = new NacosConfigClient({ serverAddr: addresses, namespace, requestTimeout: 6000, logger: quiet });
  made.on('error', () => {});
  return made;
}

// A client in a process of its own; its methods are called by messages.
function second(namespace) {
  const env = { ...process.env, NODE_CLUSTER_CLIENT_PORT: Number(process.env.NODE_CLUSTER_CLIENT_PORT) + 1 };
  const child = fork(__filename, [version, namespace], { env, stdio: ['ignore', 'ignore', 'ignore', 'ipc'] });
  const call = (...words) =>
    new Promise((resolve, reject) => {
      child.once('message', ({ error, result }) => (error ? reject(new Error(error)) : resolve(result)));
      child.send(words);
    });
  return { call, end: () => child.kill() };
}

async function answer(it) {
  await it.ready();
  process.on('message', async ([method, ...words]) => {
    try {
      process.send({ result: await it[method](...words) });
    } catch (err) {
      process.send({ error: err.message });
    }
  });
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

// A key that is added is listened to only when the poll that is under way has ended, up to 30 s later: a change of another
// key, which has been listened to from the beginning, ends it.
let pokes = 0;
async function listenNow(it, name) {
  const heard = listen(it, name);
  await sleep(1000);
  await it.publishSingle(key('poke'), 'G', `poke ${++pokes}`);
  await sleep(1000);
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
    const heard = await listenNow(it, key('listen'));
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
    const heard = await listenNow(it, key('again'));
    await it.remove(key('again'), 'G');
    await until('the removal', 5000, () => !heard[heard.length - 1]);
    await it.publishSingle(key('again'), 'G', 'back');
    await until('the creation after a removal', 10000, () => heard.includes('back'));
  },
  async namespaces(it) {
    const other = second(`ns-${run}`);
    try {
      await other.call('publishSingle', key('ns'), 'G', 'in the namespace');
      same(await other.call('getConfig', key('ns'), 'G'), 'in the namespace');
      same(await it.getConfig(key('ns'), 'G'), null);
      await other.call('heard', key('ns'));
      await other.call('publishSingle', key('ns'), 'G', 'changed');
      const end = Date.now() + 10000;
      while (!(await other.call('heard', key('ns'))).includes('changed')) {
        if (Date.now() > end) throw new Error('the change in a namespace: not within 10 s');
        await sleep(50);
      }
    } finally {
      other.end();
    }
  },
  '100 listeners': it => many(it, 100),
  '3000 listeners': it => many(it, 3000),
  async beta(it) {
    // Over HTTP a client is known by where it comes from.
    await it.publishSingle(key('beta'), 'G', 'formal');
    const heard = await listenNow(it, key('beta'));
    await until('the formal version', 10000, () => heard.includes('formal'));
    await servers('beta', 'G', key('beta'), 'mine', 'gray');
    await until('the gray version', 10000, () => heard.includes('gray'));
    same(await it.getConfig(key('beta'), 'G'), 'gray');
    await servers('stop-beta', 'G', key('beta'));
    await until('the formal version again', 10000, () => heard[heard.length - 1] === 'formal');
    await servers('beta', 'G', key('beta'), '10.9.9.9', 'for another');
    await sleep(1500);
    same(heard[heard.length - 1], 'formal');
    same(await it.getConfig(key('beta'), 'G'), 'formal');
  },
};

async function many(it, count) {
  const name = at => key(`many${count}-${at}`);
  const heard = [];
  for (let at = 0; at < count; at++) heard.push(listen(it, name(at)));
  await listenNow(it, name('last'));
  const step = count / 20;
  for (let at = 0; at < count; at += step) await it.publishSingle(name(at), 'G', 'told');
  await until('all of 20', 40000, () => heard.every((it, at) => at % step !== 0 || it.includes('told')));
}

// All clients on a machine are one, on one node: it hears of what is published at each of them.
async function nodes(it) {
  const heard = await listenNow(it, key('nodes'));
  for (let at = 0; at < 9; at++) {
    await servers('put', String((at % 3) + 1), 'G', key('nodes'), `at ${at}`);
    await until(`at ${at}`, 5000, () => heard.includes(`at ${at}`));
    same(await it.getConfig(key('nodes'), 'G'), `at ${at}`);
  }
}

// Each key changes once while every node is restarted: a change that is lost stays lost. No request may fail.
async function rolling(it) {
  const name = at => key(`rolling${at % CHANGES}`);
  const heard = [];
  for (let at = 0; at < CHANGES; at++) heard.push(listen(it, name(at)));
  await listenNow(it, name('-last'));
  let restarting = true;
  const restarts = servers('rolling').finally(() => (restarting = false));
  const acknowledged = new Map();
  const errors = [];
  for (let at = 0; restarting; at++) {
    const content = `at ${at}`;
    try {
      await it.publishSingle(name(at), 'G', content);
      acknowledged.set(at % CHANGES, content);
      same(await it.getConfig(name(at), 'G'), content);
    } catch (err) {
      errors.push(`${content}: ${err.message}`);
    }
    await sleep(50);
  }
  await restarts;
  await until('the changes', 10000, () => [...acknowledged].every(([at, content]) => heard[at].includes(content)));
  if (errors.length > 0) throw new Error(`${errors.length} errors beside ${acknowledged.size} changes: ${errors[0]}`);
}

async function leaderKilled(it) {
  await it.publishSingle(key('leader'), 'G', 'before');
  const heard = await listenNow(it, key('leader'));
  await servers('kill-leader');
  // By another client, at another node: this one has to find its way by itself.
  await servers('publish', 'G', key('leader'), 'after');
  await until('the change after it', 5000, () => heard.includes('after'));
  await sleep(5000);
  await servers('settle');
}

async function restarted(it) {
  await it.publishSingle(key('restart'), 'G', 'before');
  const heard = await listenNow(it, key('restart'));
  await servers('restart');
  await publishUntilDone(it, key('restart'), 'after');
  await until('the change after it', 40000, () => heard.includes('after'));
}

if (mode === 'three') {
  cases['a node and the others'] = nodes;
  cases['leader killed'] = leaderKilled;
  cases['rolling restart'] = rolling;
}
cases['server restarted'] = restarted;

(async () => {
  if (process.argv[3]) {
    const it = client(process.argv[3]);
    const told = {};
    it.heard = async name => (told[name] ??= listen(it, name));
    await answer(it);
    return;
  }
  const it = client();
  await it.ready();
  listen(it, key('poke'));
  for (const [name, run] of Object.entries(cases)) {
    if (!name.includes(process.env.SDK_CASE || '')) continue;
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
