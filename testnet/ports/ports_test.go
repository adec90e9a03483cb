package ports

import "testing"

func TestFreePortsDifferAndAreNoOutgoingOnes(t *testing.T) {
	seen := map[int]bool{}
	for range 200 {
		port, err := Free()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] || port < first || port > last {
			t.Errorf("port %d, chosen before: %v", port, seen[port])
		}
		seen[port] = true
	}
}
