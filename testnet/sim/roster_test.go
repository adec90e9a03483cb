package sim

import "testing"

func TestRosterGrowsWithItsMembers(t *testing.T) {
	small, err := MeasureRoster(1, 20)
	if err != nil {
		t.Fatal(err)
	}
	large, err := MeasureRoster(1, 60)
	if err != nil {
		t.Fatal(err)
	}
	if each := float64(large.Bytes-small.Bytes) / float64(large.Members-small.Members); each > 1500 {
		t.Errorf("a further member costs %.0f bytes of roster, want at most 1500", each)
	}
}
