package coracle;

import java.util.HashMap;
import java.util.Map;
import org.springframework.context.ConfigurableApplicationContext;

/** Applications that register themselves as a service, too, which is not served. */
class Registration {
    static final String SENTENCE = "Coracle serves configuration only, no service registration";

    static void cases() {
        Application.test("service registration: it does not start, and says why", Registration::refused);
        Application.test("service registration: with register-enabled=false", () -> starts("register-enabled"));
        Application.test("service registration: with fail-fast=false", () -> starts("fail-fast"));
    }

    static ConfigurableApplicationContext start(Map<String, Object> more) {
        Map<String, Object> properties = new HashMap<>(Map.of(
            "server.port", "0", "spring.cloud.nacos.discovery.server-addr", System.getenv("CORACLE_SERVERS")));
        properties.putAll(more);
        return Application.start(properties);
    }

    static void refused() throws Exception {
        try {
            start(Map.of()).close();
        } catch (Exception e) {
            StringBuilder all = new StringBuilder();
            for (Throwable cause = e; cause != null; cause = cause.getCause()) all.append(cause).append("; ");
            if (!all.toString().contains(SENTENCE)) throw e;
            return;
        }
        throw new Exception("it started");
    }

    /** And follows a change. */
    static void starts(String property) throws Exception {
        try (ConfigurableApplicationContext context =
                start(Map.of("spring.cloud.nacos.discovery." + property, "false"))) {
            context.getBean(Application.class).change(1, 10);
        }
    }
}
