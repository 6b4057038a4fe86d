import com.alibaba.nacos.api.config.ConfigService;
import java.util.Properties;

/** Versions for some clients only; published over HTTP, since this client cannot. */
class Gray {
    /** For clients of some addresses. */
    static void beta() throws Exception {
        ConfigService client = Driver.client();
        String id = Driver.RUN + "beta";
        Driver.publish(client, "beta", "formal");
        Driver.Told told = Driver.listen(client, "beta");
        told.await("formal", 10_000);
        Driver.servers("beta", Driver.GROUP, id, "mine", "gray");
        told.await("gray", 10_000);
        Driver.expect("gray", Driver.get(client, "beta"), "read while there is a beta version");
        Driver.servers("stop-beta", Driver.GROUP, id);
        told.await("formal", 10_000);
        Driver.servers("beta", Driver.GROUP, id, "10.9.9.9", "for another");
        Thread.sleep(1500);
        Driver.check(told.queue.isEmpty(), "told of what is for another: " + told.last);
        Driver.expect("formal", Driver.get(client, "beta"), "read while there is a beta version for another");
    }

    /** For clients with a label, beside one without. */
    static void tag() throws Exception {
        ConfigService client = Driver.client();
        Properties properties = new Properties();
        properties.setProperty("serverAddr", Driver.ALL);
        properties.setProperty("nacos.app.conn.labels", "Vipserver-Tag=t1");
        ConfigService tagged = Driver.client(properties);
        Driver.publish(client, "tag", "formal");
        Driver.Told told = Driver.listen(tagged, "tag");
        told.await("formal", 10_000);
        Driver.servers("tag", Driver.GROUP, Driver.RUN + "tag", "t1", "gray");
        told.await("gray", 10_000);
        Driver.expect("gray", Driver.get(tagged, "tag"), "read with the label");
        Driver.expect("formal", Driver.get(client, "tag"), "read without it");
    }
}
