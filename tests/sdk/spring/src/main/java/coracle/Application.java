package coracle;

import java.io.File;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.concurrent.CompletableFuture;
import org.springframework.beans.factory.annotation.Value;
import org.springframework.boot.SpringApplication;
import org.springframework.boot.autoconfigure.SpringBootApplication;
import org.springframework.boot.context.properties.ConfigurationProperties;
import org.springframework.boot.context.properties.EnableConfigurationProperties;
import org.springframework.cloud.context.config.annotation.RefreshScope;
import org.springframework.context.ConfigurableApplicationContext;
import org.springframework.stereotype.Component;

/** A Spring Boot application whose beans follow a configuration; one line of output for each case. */
@SpringBootApplication
@EnableConfigurationProperties(Application.Settings.class)
public class Application {
    static final String GROUP = "G";
    static final String MODE = System.getenv("CORACLE_MODE");
    /** The ending tells Spring how to read it. */
    static final String KEY = "spring-" + Long.toString(System.currentTimeMillis(), 36) + ".properties";
    static final PrintStream OUT = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    static String version;

    /** Made anew when the configuration has changed. */
    @Component
    @RefreshScope
    public static class Greeting {
        @Value("${driver.greeting:nothing}")
        private String text;

        public String text() { return text; }
    }

    /** Bound anew when the configuration has changed. */
    @ConfigurationProperties("driver")
    public static class Settings {
        private int size;

        public int getSize() { return size; }

        public void setSize(int size) { this.size = size; }
    }

    interface Case { void run() throws Exception; }

    interface Condition { boolean holds(); }

    private final Greeting greeting;
    private final Settings settings;
    /** The number that was published last. */
    private static int number = 1;

    public Application(Greeting greeting, Settings settings) {
        this.greeting = greeting;
        this.settings = settings;
    }

    public static void main(String[] arguments) {
        version = arguments[0];
        System.setOut(System.err);
        try {
            publish(1, 1);
            try (ConfigurableApplicationContext context = start(Map.of(
                    "spring.main.web-application-type", "none", "spring.cloud.nacos.discovery.enabled", "false"))) {
                context.getBean(Application.class).cases();
            }
            Registration.cases();
        } catch (Throwable e) {
            e.printStackTrace();
            report("start", e);
        }
        System.exit(0);
    }

    /** Only when it is ready, after the runners, does it begin to listen. */
    static ConfigurableApplicationContext start(Map<String, Object> more) {
        SpringApplication application = new SpringApplication(Application.class);
        Map<String, Object> properties = new HashMap<>(Map.of(
            "spring.main.banner-mode", "off",
            "spring.application.name", "driver",
            "spring.cloud.nacos.config.server-addr", System.getenv("CORACLE_SERVERS"),
            "spring.config.import", "nacos:" + KEY + "?group=" + GROUP));
        properties.putAll(more);
        application.setDefaultProperties(properties);
        return application.run();
    }

    private void cases() {
        test("read at its start", () -> await(5));
        test("refresh", () -> {
            for (int i = 0; i < 3; i++) change(1, 10);
        });
        if ("three".equals(MODE)) {
            test("refresh, published at each node", () -> {
                for (int node = 1; node <= 3; node++) change(node, 10);
            });
            test("leader killed", () -> after("kill-leader", 5));
            test("rolling restart", this::rolling);
        } else {
            test("server restarted", () -> after("restart", 30));
        }
    }

    /** Both beans are told. */
    void change(int node, long seconds) throws Exception {
        publish(node, ++number);
        await(seconds);
    }

    private void after(String command, long seconds) throws Exception {
        servers(command);
        publishAnywhere(++number);
        await(seconds);
        if (command.equals("kill-leader")) Thread.sleep(5_000);
        servers("settle");
    }

    /** What changes while every node is restarted is told without another change after it. */
    private void rolling() throws Exception {
        CompletableFuture<Void> restarts = CompletableFuture.runAsync(() -> {
            try { servers("rolling"); } catch (Exception e) { throw new IllegalStateException(e); }
        });
        while (!restarts.isDone()) {
            publishAnywhere(++number);
            Thread.sleep(200);
        }
        restarts.get();
        await(10);
    }

    void await(long seconds) throws Exception {
        String wanted = "number " + number;
        until(() -> greeting.text().equals(wanted), seconds, () -> "the @RefreshScope bean has " + greeting.text());
        until(() -> settings.getSize() == number, seconds, () -> "the @ConfigurationProperties have " + settings.getSize());
    }

    private static void until(Condition condition, long seconds, java.util.function.Supplier<String> otherwise) throws Exception {
        long end = System.currentTimeMillis() + seconds * 1000;
        while (!condition.holds()) {
            if (System.currentTimeMillis() > end) throw new Exception("after " + seconds + " s " + otherwise.get());
            Thread.sleep(10);
        }
    }

    static void test(String name, Case body) {
        if (!name.contains(Objects.requireNonNullElse(System.getenv("SDK_CASE"), ""))) return;
        Throwable why = null;
        try {
            body.run();
        } catch (Throwable e) {
            e.printStackTrace();
            why = e;
        }
        report(name, why);
    }

    private static void report(String name, Throwable why) {
        String what = "spring " + version + " " + MODE + ": " + name;
        OUT.println(why == null ? "ok   " + what : "FAIL " + what + ": " + String.valueOf(why.getMessage()).replaceAll("\\s+", " "));
    }

    private static void publish(int node, int number) throws Exception {
        servers("put", Integer.toString(node), GROUP, KEY, content(number));
    }

    /** At a node that takes it: one may be away. */
    private static void publishAnywhere(int number) throws Exception {
        servers("publish", GROUP, KEY, content(number));
    }

    private static String content(int number) {
        return "driver.greeting=number " + number + "\ndriver.size=" + number + "\n";
    }

    private static void servers(String... command) throws Exception {
        List<String> words = new ArrayList<>(List.of(command));
        words.add(0, System.getenv("SERVERS"));
        Process process = new ProcessBuilder(words)
            .redirectInput(new File("/dev/null")).redirectErrorStream(true)
            .redirectOutput(ProcessBuilder.Redirect.DISCARD).start();
        int code = process.waitFor();
        if (code != 0) throw new Exception("servers " + String.join(" ", command) + " ended with " + code);
    }
}
