package exchange

import (
	"testing"
	"time"

	"github.com/libp2p/go-libp2p/core/network"
)

// TestAnswersFromTheFuture has a member that says that its answers were made in a hundred
// years: to believe that would be to believe them, and no other ones, until then.
func TestAnswersFromTheFuture(t *testing.T) {
	const key = "example.test/m list"
	future := time.Now().AddDate(100, 0, 0).Unix()
	w := newWorld(t, 3)
	home := w.home(keyHome(key), 0)
	asker := w.claimant(home)
	sayWait(home, func() claimReply { return claimReply{State: claimAnswer, Value: []byte("v1.0.0\n"), At: future} },
		func() claimReply { return claimReply{State: claimEnded} })
	claim, err := asker.x.ClaimAnswer(t.Context(), key, time.Minute)
	if err != nil || claim.Outcome != Answered {
		t.Fatalf("%+v, %v; want the answer", claim, err)
	}
	if claim.At.After(time.Now()) {
		t.Errorf("a claim is answered with what was true at %v", claim.At)
	}
	home.host.SetStreamHandler(AnswersID, func(s network.Stream) {
		defer s.Close()
		l := newLink(home.x.ctx, s, AnswersID, home.x.limits.of(asker.id(), Client))
		var req answersRequest
		if l.recv(&req, maxRequest) == nil && l.send(&answersEntry{Value: []byte("v1.0.0\n"), At: future}, maxAnswer) == nil &&
			l.send(&answersEntry{End: true}, maxAnswer) == nil {
			l.flush()
		}
	})
	answers, err := asker.x.Answers(t.Context(), key, true)
	if err != nil || len(answers) != 1 {
		t.Fatalf("%+v, %v; want one answer", answers, err)
	}
	if answers[0].At.After(time.Now()) {
		t.Errorf("a question is answered with what was true at %v", answers[0].At)
	}
}
