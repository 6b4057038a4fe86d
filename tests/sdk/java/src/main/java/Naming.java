import com.alibaba.nacos.api.NacosFactory;
import com.alibaba.nacos.api.config.ConfigService;
import com.alibaba.nacos.api.exception.NacosException;
import com.alibaba.nacos.api.naming.NamingService;
import java.util.Properties;

/** Service registration, which is not served: an application that tries it is told so, and keeps its configuration. */
class Naming {
    static void refused() throws Exception {
        ConfigService client = Driver.client();
        Driver.Told told = Driver.listen(client, "naming");
        Driver.publish(client, "naming", "before");
        told.await("before", 10_000);
        Properties properties = new Properties();
        properties.setProperty("serverAddr", Driver.ALL);
        NamingService naming = NacosFactory.createNamingService(properties);
        try {
            register(naming);
            // Longer than the client waits until it tries again by itself.
            Thread.sleep(4000);
            Driver.publish(client, "naming", "after");
            told.await("after", 5000);
            Driver.expect("after", Driver.get(client, "naming"), "read");
        } finally {
            naming.shutDown();
        }
    }

    static void register(NamingService naming) throws Exception {
        try {
            naming.registerInstance(Driver.RUN + "service", "10.1.2.3", 8080);
        } catch (NacosException e) {
            Driver.check(e.getErrMsg().contains("Coracle serves configuration only, no service registration"), "refused with: " + e);
            return;
        }
        throw new Exception("registered");
    }
}
