import com.alibaba.nacos.api.config.ConfigService;
import java.lang.reflect.Method;
import java.lang.reflect.Proxy;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.Executor;
import java.util.concurrent.Future;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;

/** Watches keys by a pattern. Clients of 2.x cannot, and do not have the types: hence by reflection. */
class PatternWatch {
    static final String WATCHER = "com.alibaba.nacos.api.config.listener.FuzzyWatchEventWatcher";

    final BlockingQueue<String> events = new LinkedBlockingQueue<>();
    final Set<String> first;

    static boolean isKnown() {
        try {
            Class.forName(WATCHER);
            return true;
        } catch (ClassNotFoundException e) {
            return false;
        }
    }

    /** Watches, and waits until the client has all that is there. */
    @SuppressWarnings("unchecked")
    PatternWatch(ConfigService client, String pattern) throws Exception {
        Class<?> type = Class.forName(WATCHER);
        Object watcher = Proxy.newProxyInstance(type.getClassLoader(), new Class<?>[] {type}, (self, method, arguments) -> {
            switch (method.getName()) {
                case "onEvent" -> {
                    Object event = arguments[0];
                    String key = (String) event.getClass().getMethod("getDataId").invoke(event);
                    String change = (String) event.getClass().getMethod("getChangedType").invoke(event);
                    events.add(change + " " + key.substring(Driver.RUN.length()));
                    return null;
                }
                case "getExecutor" -> { return (Executor) Runnable::run; }
                case "hashCode" -> { return System.identityHashCode(self); }
                case "equals" -> { return self == arguments[0]; }
                default -> { return null; }
            }
        });
        Method watch = ConfigService.class.getMethod("fuzzyWatchWithGroupKeys", String.class, String.class, type);
        Future<Set<String>> keys = (Future<Set<String>>) watch.invoke(client, Driver.RUN + pattern, Driver.GROUP, watcher);
        first = keys.get(10, TimeUnit.SECONDS);
    }

    /** Waits until exactly this is told; anything else told before it is passed over. */
    void await(String wanted, long millis) throws Exception {
        long end = System.currentTimeMillis() + millis;
        List<String> others = new ArrayList<>();
        while (true) {
            String got = events.poll(Math.max(0, end - System.currentTimeMillis()), TimeUnit.MILLISECONDS);
            if (wanted.equals(got)) return;
            Driver.check(got != null, "not told '" + wanted + "' in " + millis + " ms, but " + others);
            others.add(got);
        }
    }

    static void comesAndGoes() throws Exception {
        ConfigService client = Driver.client();
        Driver.publish(client, "pattern-1", "one");
        Driver.publish(client, "pattern-2", "two");
        Driver.publish(client, "other", "not meant");
        PatternWatch watch = new PatternWatch(client, "pattern-*");
        Driver.check(watch.first.size() == 2, "it knows " + watch.first);
        watch.await("ADD_CONFIG pattern-1", 10_000);
        Driver.publish(client, "pattern-3", "three");
        watch.await("ADD_CONFIG pattern-3", 10_000);
        Driver.check(client.removeConfig(Driver.RUN + "pattern-3", Driver.GROUP), "removeConfig was refused");
        watch.await("DELETE_CONFIG pattern-3", 10_000);
    }

    static void leaderKilled() throws Exception {
        ConfigService client = Driver.client();
        PatternWatch watch = new PatternWatch(client, "survivor-*");
        Driver.servers("kill-leader");
        long back = System.currentTimeMillis() + 12_000;
        try {
            Driver.publishUntilTrue(client, "survivor-1", "one");
            watch.await("ADD_CONFIG survivor-1", 10_000);
        } finally {
            Thread.sleep(Math.max(0, back - System.currentTimeMillis()));
            Driver.servers("settle");
        }
    }
}
