import io.apicurio.registry.serde.avro.AvroKafkaSerializer;
import java.io.PrintStream;
import java.math.BigDecimal;
import java.nio.ByteBuffer;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.HashMap;
import java.util.HexFormat;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.apache.avro.Schema;
import org.apache.avro.generic.GenericData;
import org.apache.avro.generic.GenericRecord;
import org.apache.kafka.common.header.Header;
import org.apache.kafka.common.header.Headers;
import org.apache.kafka.common.header.internals.RecordHeaders;

/** Serializes one record in each wire format of Apicurio's Java serializer; prints a line of text for each. */
public class JavaRecords {

    public static void main(String[] arguments) throws Exception {
        String registry = arguments[0];
        Schema schema = new Schema.Parser().parse(Files.readString(Path.of(arguments[1])));
        PrintStream out = System.out;
        System.setOut(System.err); // what libraries print is not ours

        Map<String, Map<String, Object>> variants = new LinkedHashMap<>();
        variants.put("4-byte ids", Map.of("apicurio.registry.headers.enabled", false,
            "apicurio.registry.as-confluent", true, "apicurio.registry.use-id", "contentId"));
        variants.put("8-byte ids", Map.of("apicurio.registry.headers.enabled", false));
        variants.put("ids in headers", Map.of("apicurio.registry.headers.enabled", true));
        for (Map.Entry<String, Map<String, Object>> variant : variants.entrySet()) {
            Map<String, Object> config = new HashMap<>(variant.getValue());
            config.put("apicurio.registry.url", registry);
            config.put("apicurio.registry.auto-register", true);
            config.put("apicurio.registry.artifact-resolver-strategy",
                "io.apicurio.registry.serde.strategy.TopicIdStrategy");
            try (AvroKafkaSerializer<GenericRecord> serializer = new AvroKafkaSerializer<>()) {
                serializer.configure(config, false);
                Headers headers = new RecordHeaders();
                byte[] value = serializer.serialize("orders.placed", headers, record(schema));
                out.println(variant.getKey() + "\tvalue\t" + HexFormat.of().formatHex(value));
                for (Header header : headers) {
                    out.println(variant.getKey() + "\t" + header.key() + "\t" + HexFormat.of().formatHex(header.value()));
                }
            }
        }
    }

    private static GenericRecord record(Schema schema) {
        GenericRecord line = new GenericData.Record(schema.getField("lines").schema().getElementType());
        line.put("sku", "s-1");
        line.put("count", 3);
        GenericRecord order = new GenericData.Record(schema);
        order.put("order_id", "заказ-7");
        order.put("amount", 9_000_000_000L);
        order.put("weight", 1.5);
        order.put("express", true);
        order.put("note", null);
        order.put("state", new GenericData.EnumSymbol(schema.getField("state").schema(), "PAID"));
        order.put("lines", List.of(line));
        order.put("labels", Map.of("tenant", "blue"));
        order.put("raw", ByteBuffer.wrap(new byte[] {0, (byte) 0xff}));
        order.put("placed_at", 1_357_035_420_123L);
        order.put("total", ByteBuffer.wrap(new BigDecimal("-12.34").unscaledValue().toByteArray()));
        return order;
    }
}
