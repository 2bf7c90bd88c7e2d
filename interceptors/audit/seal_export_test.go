package audit

import auditv1 "github.com/sallyport/sallyport/gen/go/sallyport/audit/v1"

// SealPlain puts plain into r's sealed part, as only who has the data key could:
// what a reader does with such a part has to be tested, too.
func SealPlain(s *Sealer, r *auditv1.Record, plain []byte) {
	nonce := make([]byte, s.key.aead.NonceSize())
	head := append(append([]byte(nil), s.key.id[:]...), nonce...)
	r.Sealed = s.key.aead.Seal(head, nonce, plain, s.key.bind(nil, r))
}
