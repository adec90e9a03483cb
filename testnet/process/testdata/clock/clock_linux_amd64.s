#include "textflag.h"

// clock is called as the kernel's function is: the clock in DI, where the time goes in
// SI, and the stack aligned before the call. The runtime counts on BX and R12.
TEXT ·clock(SB), NOSPLIT|NOFRAME, $0
	PUSHQ DI
	PUSHQ SI
	SUBQ $8, SP
	MOVQ ·trueClock(SB), AX
	CALL AX
	ADDQ $8, SP
	POPQ SI
	POPQ DI
	CMPL DI, $0 // CLOCK_REALTIME
	JNE  done
	MOVQ ·off(SB), CX
	MOVQ (CX), CX
	ADDQ CX, 0(SI)
done:
	RET

// func setClock() bool
TEXT ·setClock(SB), NOSPLIT, $0-1
	MOVQ runtime·vdsoClockgettimeSym(SB), AX
	CMPQ AX, $0
	JEQ  none
	MOVQ AX, ·trueClock(SB)
	LEAQ ·clock(SB), AX
	MOVQ AX, runtime·vdsoClockgettimeSym(SB)
	MOVB $1, ret+0(FP)
	RET
none:
	MOVB $0, ret+0(FP)
	RET
