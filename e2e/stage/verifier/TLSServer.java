import java.io.IOException;
import java.net.InetAddress;
import java.nio.file.Files;
import java.nio.file.Path;
import java.security.KeyFactory;
import java.security.KeyStore;
import java.security.cert.Certificate;
import java.security.cert.CertificateFactory;
import java.security.spec.PKCS8EncodedKeySpec;
import java.util.Base64;
import javax.net.ssl.KeyManagerFactory;
import javax.net.ssl.SSLContext;
import javax.net.ssl.SSLException;
import javax.net.ssl.SSLServerSocket;
import javax.net.ssl.SSLSocket;
import javax.net.ssl.TrustManagerFactory;

/** Serves TLS 1.3 and demands client certificates: PORT CERTIFICATE KEY ANCHORS. */
class TLSServer {
    public static void main(String[] args) throws Exception {
        var keys = KeyManagerFactory.getInstance("PKIX");
        keys.init(identity(args[1], args[2]), new char[0]);
        var trust = TrustManagerFactory.getInstance("PKIX");
        trust.init(anchors(args[3]));
        var context = SSLContext.getInstance("TLSv1.3");
        context.init(keys.getKeyManagers(), trust.getTrustManagers(), null);
        var loopback = InetAddress.getByName("127.0.0.1");
        var listener = (SSLServerSocket) context.getServerSocketFactory().createServerSocket(Integer.parseInt(args[0]), 64, loopback);
        listener.setNeedClientAuth(true);
        listener.setEnabledProtocols(new String[] {"TLSv1.3"});
        while (true) {
            try (var connection = (SSLSocket) listener.accept()) {
                serve(connection);
            } catch (IOException gone) {
                System.out.println("a client went away: " + gone);
            }
        }
    }

    static void serve(SSLSocket connection) throws IOException {
        connection.setSoTimeout(10_000);
        try {
            connection.startHandshake();
        } catch (SSLException refusal) {
            System.out.println(connection.getPort() + " refused: " + refusal.getMessage());
            return;
        }
        connection.getInputStream().read(new byte[4096]);
        connection.getOutputStream().write("accepted\n".getBytes());
    }

    static KeyStore identity(String certificate, String key) throws Exception {
        var pem = Files.readString(Path.of(key)).replaceAll("-----.*-----|\\s", "");
        var spec = new PKCS8EncodedKeySpec(Base64.getDecoder().decode(pem));
        var store = emptyStore();
        store.setKeyEntry("own", KeyFactory.getInstance("EC").generatePrivate(spec), new char[0], read(certificate));
        return store;
    }

    static KeyStore anchors(String file) throws Exception {
        var store = emptyStore();
        for (var anchor : read(file)) {
            store.setCertificateEntry("anchor" + store.size(), anchor);
        }
        return store;
    }

    static KeyStore emptyStore() throws Exception {
        var store = KeyStore.getInstance("PKCS12");
        store.load(null, null);
        return store;
    }

    static Certificate[] read(String file) throws Exception {
        try (var in = Files.newInputStream(Path.of(file))) {
            return CertificateFactory.getInstance("X.509").generateCertificates(in).toArray(new Certificate[0]);
        }
    }
}
