import com.alibaba.nacos.api.NacosFactory;
import com.alibaba.nacos.api.config.ConfigService;
import com.alibaba.nacos.api.config.listener.Listener;
import java.io.File;
import java.io.PrintStream;
import java.math.BigInteger;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Properties;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.concurrent.atomic.AtomicBoolean;

/** Tries the official Java client against running servers; one line of output for each case. */
public class Driver {
    static final String GROUP = "DEFAULT_GROUP";
    static final String RUN = "java-" + Long.toString(System.currentTimeMillis(), 36) + "-";
    /** More than there is time for in a rolling restart. */
    static final int CHANGES = 200;
    static final String ALL = System.getenv("CORACLE_SERVERS");
    static final String MODE = System.getenv("CORACLE_MODE");
    static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    /** The clients of the running case, shut down after it. */
    static final List<ConfigService> clients = new ArrayList<>();
    static final ExecutorService threads = Executors.newCachedThreadPool();
    static String version;
    static File scriptLog;

    interface Case { void run() throws Exception; }

    /** Remembers, in order, what a listener was told; a removed key is told as null, kept here as "". */
    static class Told implements Listener {
        final BlockingQueue<String> queue = new LinkedBlockingQueue<>();
        volatile String last;
        @Override public Executor getExecutor() { return null; }
        @Override public void receiveConfigInfo(String content) {
            last = content == null ? "" : content;
            queue.add(last);
        }
        /** Waits until exactly this is told; anything else told before it is passed over. */
        void await(String wanted, long millis) throws Exception {
            long end = System.currentTimeMillis() + millis;
            List<String> others = new ArrayList<>();
            while (true) {
                String got = queue.poll(Math.max(0, end - System.currentTimeMillis()), TimeUnit.MILLISECONDS);
                if (wanted.equals(got)) return;
                if (got == null) throw new Exception("not told '" + wanted + "' in " + millis + " ms, but " + others);
                others.add(got);
            }
        }
    }

    public static void main(String[] args) {
        version = args[0];
        scriptLog = new File(args[1]);
        System.setOut(System.err);

        boolean patterns = PatternWatch.isKnown();
        if ("three".equals(MODE)) {
            // First: the process has one client yet. One for services may stay connected after its shutdown.
            test("leader killed", Driver::leaderKilled);
            if (patterns) test("pattern watch, leader killed", PatternWatch::leaderKilled);
        }
        test("exact bytes", () -> roundTrip("exact", " 配置中心 héllo 🚀👩‍👩‍👧\r\n\ttab  \r\ntrailing spaces   \n"));
        test("1 MiB", () -> roundTrip("mib", "0123456789abcde\n".repeat(65536)));
        test("cas", Driver::cas);
        test("remove", Driver::remove);
        test("namespaces", Driver::namespaces);
        test("listen: first and second change", Driver::changes);
        test("listen: same content is not told", Driver::sameContent);
        test("listen: delete and create", Driver::deleteAndCreate);
        test("100 listeners", () -> manyListeners(100, 100));
        test("3000 listeners", () -> manyListeners(3000, 20));
        test("public and blank namespace", Driver::publicNamespace);
        test("beta", Gray::beta);
        test("tag", Gray::tag);
        test("service registration is refused", Naming::refused);
        if (patterns) test("pattern watch", PatternWatch::comesAndGoes);
        if ("three".equals(MODE)) {
            test("two nodes", Driver::twoNodes);
            test("rolling restart", Driver::rolling);
        }
        test("server restarted", Driver::restarted);
        System.exit(0);
    }

    static void test(String name, Case body) {
        if (!name.contains(Objects.requireNonNullElse(System.getenv("SDK_CASE"), ""))) return;
        String reason = null;
        Future<?> running = threads.submit(() -> { body.run(); return null; });
        try {
            running.get(60, TimeUnit.SECONDS);
        } catch (TimeoutException e) {
            running.cancel(true);
            reason = "not done in 60 s";
        } catch (Throwable e) {
            Throwable cause = e.getCause() == null ? e : e.getCause();
            cause.printStackTrace();
            reason = cause.getClass() == Exception.class ? cause.getMessage() : cause.toString();
        }
        synchronized (clients) {
            for (ConfigService client : clients) {
                try { client.shutDown(); } catch (Throwable e) { e.printStackTrace(); }
            }
            clients.clear();
        }
        String what = "java " + version + " " + MODE + ": " + name;
        OUT.println(reason == null ? "ok   " + what : "FAIL " + what + ": " + reason.replaceAll("\\s+", " "));
    }

    // What the cases are made of.

    static ConfigService client(String servers, String namespace) throws Exception {
        Properties properties = new Properties();
        properties.setProperty("serverAddr", servers);
        if (namespace != null) properties.setProperty("namespace", namespace);
        return client(properties);
    }

    static ConfigService client(Properties properties) throws Exception {
        ConfigService client = NacosFactory.createConfigService(properties);
        synchronized (clients) { clients.add(client); }
        return client;
    }

    static ConfigService client() throws Exception { return client(ALL, null); }

    static void publish(ConfigService client, String key, String content) throws Exception {
        check(client.publishConfig(RUN + key, GROUP, content), "publish of " + key + " was refused");
    }

    /** Publishes until it is acknowledged; the cap of the case ends it otherwise. */
    static void publishUntilTrue(ConfigService client, String key, String content) throws Exception {
        while (!tryPublish(client, key, content)) Thread.sleep(200);
    }

    static boolean tryPublish(ConfigService client, String key, String content) {
        try { return client.publishConfig(RUN + key, GROUP, content); } catch (Exception e) { return false; }
    }

    static String get(ConfigService client, String key) throws Exception {
        return client.getConfig(RUN + key, GROUP, 5000);
    }

    static Told listen(ConfigService client, String key) throws Exception {
        Told told = new Told();
        client.addListener(RUN + key, GROUP, told);
        return told;
    }

    static void check(boolean holds, String otherwise) throws Exception {
        if (!holds) throw new Exception(otherwise);
    }

    static void expect(String wanted, String got, String what) throws Exception {
        check(Objects.equals(wanted, got), what + ": wanted " + brief(wanted) + ", got " + brief(got));
    }

    static String brief(String s) {
        return s == null || s.length() <= 80 ? "'" + s + "'" : s.length() + " characters, '" + s.substring(0, 80) + "...'";
    }

    static String md5(String s) throws Exception {
        byte[] sum = MessageDigest.getInstance("MD5").digest(s.getBytes(StandardCharsets.UTF_8));
        return String.format("%032x", new BigInteger(1, sum));
    }

    static void servers(String... command) throws Exception {
        List<String> words = new ArrayList<>(List.of(command));
        words.add(0, System.getenv("SERVERS"));
        Process process = new ProcessBuilder(words)
            .redirectInput(new File("/dev/null")).redirectErrorStream(true)
            .redirectOutput(ProcessBuilder.Redirect.appendTo(scriptLog)).start();
        int code = process.waitFor();
        check(code == 0, "servers " + String.join(" ", command) + " ended with " + code);
    }

    // The cases.

    static void roundTrip(String key, String content) throws Exception {
        ConfigService c = client();
        publish(c, key, content);
        expect(content, get(c, key), "read");
    }

    static void cas() throws Exception {
        ConfigService c = client();
        String id = RUN + "cas";
        publish(c, "cas", "one");
        check(c.publishConfigCas(id, GROUP, "two", md5("one")), "the right md5 was refused");
        expect("two", get(c, "cas"), "after the right md5");
        check(!c.publishConfigCas(id, GROUP, "three", md5("one")), "a wrong md5 was accepted");
        expect("two", get(c, "cas"), "after a wrong md5");
    }

    static void remove() throws Exception {
        ConfigService c = client();
        publish(c, "remove", "here");
        expect("here", get(c, "remove"), "before");
        check(c.removeConfig(RUN + "remove", GROUP), "removeConfig was refused");
        expect(null, get(c, "remove"), "after");
    }

    static void namespaces() throws Exception {
        ConfigService a = client(ALL, RUN + "a");
        ConfigService b = client(ALL, RUN + "b");
        publish(a, "apart", "of a");
        expect(null, get(b, "apart"), "b before its own publish");
        publish(b, "apart", "of b");
        expect("of a", get(a, "apart"), "a");
        expect("of b", get(b, "apart"), "b");
        Told told = listen(a, "apart");
        publish(b, "apart", "b again");
        publish(a, "apart", "a again");
        told.await("a again", 10_000);
        check(told.queue.isEmpty(), "told of another namespace: " + told.last);
    }

    static void changes() throws Exception {
        ConfigService c = client();
        Told told = listen(c, "changes");
        publish(c, "changes", "first");
        told.await("first", 10_000);
        publish(c, "changes", "second");
        told.await("second", 10_000);
    }

    static void sameContent() throws Exception {
        ConfigService c = client();
        Told told = listen(c, "same");
        publish(c, "same", "same");
        told.await("same", 10_000);
        publish(c, "same", "same");
        String again = told.queue.poll(1500, TimeUnit.MILLISECONDS);
        check(again == null, "told again: " + again);
    }

    static void deleteAndCreate() throws Exception {
        ConfigService c = client();
        Told told = listen(c, "again");
        publish(c, "again", "before");
        told.await("before", 10_000);
        check(c.removeConfig(RUN + "again", GROUP), "removeConfig was refused");
        told.await("", 5000);
        publish(c, "again", "after");
        told.await("after", 10_000);
    }

    static void manyListeners(int listeners, int published) throws Exception {
        ConfigService c = client();
        ConfigService publisher = client();
        List<Told> all = new ArrayList<>();
        String key = "of" + listeners + "-";
        for (int i = 0; i < listeners; i++) all.add(listen(c, key + i));
        int step = listeners / published;
        for (int i = 0; i < listeners; i += step) publish(publisher, key + i, "content " + i);
        long end = System.currentTimeMillis() + 30_000;
        for (int i = 0; i < listeners; i += step) {
            all.get(i).await("content " + i, Math.max(0, end - System.currentTimeMillis()));
        }
        long others = all.stream().filter(t -> t.last != null).count() - published;
        check(others == 0, others + " listeners were told of other keys' changes");
    }

    static void publicNamespace() throws Exception {
        Told told = listen(client(ALL, "public"), "public");
        publish(client(), "public", "for all");
        told.await("for all", 10_000);
    }

    static void twoNodes() throws Exception {
        String[] each = ALL.split(",");
        ConfigService a = client(each[0], null);
        ConfigService b = client(each[1], null);
        Told told = listen(b, "nodes");
        for (int i = 1; i <= 20; i++) {
            publish(a, "nodes", "change " + i);
            expect("change " + i, get(a, "nodes"), "read right after the publish");
            told.await("change " + i, 5000);
        }
    }

    static void leaderKilled() throws Exception {
        ConfigService c = client();
        Told told = listen(c, "leader");
        publish(c, "leader", "before");
        told.await("before", 10_000);
        servers("kill-leader");
        long back = System.currentTimeMillis() + 12_000;
        try {
            // By another client, at another node: this one has to find its way by itself.
            servers("publish", GROUP, RUN + "leader", "after");
            told.await("after", 5000);
        } finally {
            Thread.sleep(Math.max(0, back - System.currentTimeMillis()));
            servers("settle");
        }
    }

    /** Each key changes once while every node is restarted: a change that is lost stays lost. No request may fail. */
    static void rolling() throws Exception {
        ConfigService listening = client();
        ConfigService asking = client();
        List<Told> told = new ArrayList<>();
        for (int i = 0; i < CHANGES; i++) told.add(listen(listening, "rolling-" + i));
        AtomicBoolean stop = new AtomicBoolean();
        List<String> failures = new ArrayList<>();
        Map<Integer, String> acknowledged = new HashMap<>();
        Future<Integer> running = threads.submit(() -> {
            int number = 0;
            for (; !stop.get(); number++) {
                String key = "rolling-" + number % CHANGES;
                try {
                    publish(asking, key, "number " + number);
                    acknowledged.put(number % CHANGES, "number " + number);
                    expect("number " + number, get(asking, key), "read");
                } catch (Exception e) {
                    failures.add(number + ": " + e);
                }
                Thread.sleep(50);
            }
            return number;
        });
        try {
            servers("rolling");
        } finally {
            stop.set(true);
        }
        int number = running.get();
        long end = System.currentTimeMillis() + 10_000;
        for (Map.Entry<Integer, String> it : acknowledged.entrySet()) {
            told.get(it.getKey()).await(it.getValue(), Math.max(0, end - System.currentTimeMillis()));
        }
        check(failures.isEmpty(), failures.size() + " of " + number + " changes: " + failures);
    }

    static void restarted() throws Exception {
        ConfigService c = client();
        Told told = listen(c, "restart");
        publish(c, "restart", "before");
        told.await("before", 10_000);
        servers("restart");
        publishUntilTrue(c, "restart", "after");
        told.await("after", 30_000);
    }
}
