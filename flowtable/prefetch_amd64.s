#include "textflag.h"

// func prefetchBuckets(buckets *bucket, n uint64, hashes *uint64, count int)
TEXT ·prefetchBuckets(SB), NOSPLIT, $0-32
	MOVQ buckets+0(FP), SI
	MOVQ n+8(FP), R8
	MOVQ hashes+16(FP), R9
	MOVQ count+24(FP), R11
	LEAQ (R9)(R11*8), R11
bucket:
	MOVQ (R9), AX
	MULQ R8                  // DX = bucket number (Table.place)
	SHLQ $6, DX
	PREFETCHT0 (SI)(DX*1)
	ADDQ $8, R9
	CMPQ R9, R11
	JNE  bucket
	RET

// func prefetchSessions(buckets *bucket, n uint64, sessions *Session, hashes *uint64, hints *Ref, count int, whole uint64)
//
// Finds in each bucket the slot whose signature matches and asks for the record
// it names. A prefetch retires at once, so the misses of many packets are under
// way together; plain loads would fill the reorder buffer after a few packets.
TEXT ·prefetchSessions(SB), NOSPLIT, $0-56
	MOVQ buckets+0(FP), SI
	MOVQ n+8(FP), R8
	MOVQ sessions+16(FP), DI
	MOVQ hashes+24(FP), R9
	MOVQ hints+32(FP), R10
	MOVQ count+40(FP), R11
	XORQ CX, CX
session:
	CMPQ CX, R11
	JGE  done
	MOVQ (R9)(CX*8), AX
	MOVD AX, X0
	PSHUFD $0, X0, X0        // the signature, four times
	MULQ R8
	SHLQ $6, DX
	ADDQ SI, DX
	MOVOU 0(DX), X1
	MOVOU 16(DX), X2
	MOVOU 32(DX), X3
	MOVOU 48(DX), X4
	SHUFPS $0xdd, X2, X1     // signatures of slots 0 to 3
	SHUFPS $0xdd, X4, X3     // of slots 4 to 6, and half of meta
	PCMPEQL X0, X1
	PCMPEQL X0, X3
	PACKSSLW X3, X1
	PACKSSWB X1, X1
	PMOVMSKB X1, BX
	ANDL $0x7f, BX
	JZ   none
	BSFL BX, BX
	MOVL (DX)(BX*8), AX      // the Ref
	MOVL AX, (R10)(CX*4)
	MOVL AX, R12
	ANDL $3, R12             // place in its first line, direction
	ADDQ whole+48(FP), R12   // 4 where all lines are wanted
	SHRL $1, AX
	LEAQ (AX)(AX*4), AX
	SHLQ $5, AX              // times SessionSize
	ADDQ DI, AX
	LEAQ 64(AX), R13
	LEAQ 128(AX), DX
	CMPL R12, $0             // forward, from the start of a line: nothing in the third is needed
	CMOVQEQ R13, DX
	CMPL R12, $3             // reply, from the middle of a line: nothing in the first
	CMOVQEQ R13, AX
	PREFETCHT0 (AX)
	PREFETCHT0 (R13)
	PREFETCHT0 (DX)
	INCQ CX
	JMP  session

none:
	MOVL $0, (R10)(CX*4)
	INCQ CX
	JMP  session

done:
	RET

// func prefetchBucket(b *bucket)
TEXT ·prefetchBucket(SB), NOSPLIT, $0-8
	MOVQ b+0(FP), AX
	PREFETCHT0 (AX)
	RET

// func prefetchSession(s *Session)
TEXT ·prefetchSession(SB), NOSPLIT, $0-8
	MOVQ s+0(FP), AX
	PREFETCHT0 (AX)
	PREFETCHT0 64(AX)
	PREFETCHT0 128(AX)
	RET
