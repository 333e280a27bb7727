"""Kafka by librdkafka: a group member, a sender, and the Faust driver made of them (``driver.Transport``)."""
