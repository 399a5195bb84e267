package corpus

import (
	"encoding/asn1"
	"time"
)

// tlv gives tag, DER length and the contents.
func tlv(tag byte, contents ...[]byte) []byte {
	var body []byte
	for _, c := range contents {
		body = append(body, c...)
	}
	n := len(body)
	head := []byte{tag}
	switch {
	case n < 0x80:
		head = append(head, byte(n))
	case n < 0x100:
		head = append(head, 0x81, byte(n))
	case n < 0x10000:
		head = append(head, 0x82, byte(n>>8), byte(n))
	default:
		head = append(head, 0x83, byte(n>>16), byte(n>>8), byte(n))
	}
	return append(head, body...)
}

func sequence(contents ...[]byte) []byte { return tlv(0x30, contents...) }
func octets(contents ...[]byte) []byte   { return tlv(0x04, contents...) }
func integer(content ...byte) []byte     { return tlv(0x02, content) }
func bits(unused byte, b ...byte) []byte { return tlv(0x03, []byte{unused}, b) }
func boolean(b bool) []byte {
	if b {
		return tlv(0x01, []byte{0xff})
	}
	return tlv(0x01, []byte{0})
}

// oid encodes an object identifier; arcs are constants of this package.
func oid(arcs ...int) []byte {
	der, err := asn1.Marshal(asn1.ObjectIdentifier(arcs))
	if err != nil {
		return nil
	}
	return der
}

// name encodes a distinguished name with one common name.
func name(common string) []byte {
	return sequence(tlv(0x31, sequence(oid(2, 5, 4, 3), tlv(0x0c, []byte(common)))))
}

func utcTime(t time.Time) []byte { return tlv(0x17, []byte(t.UTC().Format("060102150405Z"))) }

func generalizedTime(t time.Time) []byte {
	return tlv(0x18, []byte(t.UTC().Format("20060102150405Z")))
}

// period encodes a validity in the forms that RFC 5280 asks for.
func period(from, to time.Time) []byte { return append(instant(from), instant(to)...) }

func instant(t time.Time) []byte {
	if t.UTC().Year() >= 2050 {
		return generalizedTime(t)
	}
	return utcTime(t)
}

// Tags of GeneralNames.
const (
	tagOther = 0xa0
	tagEmail = 0x81
	tagDNS   = 0x82
	tagURI   = 0x86
)

func uri(text string) []byte { return tlv(tagURI, []byte(text)) }
func dns(text string) []byte { return tlv(tagDNS, []byte(text)) }
