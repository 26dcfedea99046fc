# A guest of 512 bytes that really runs on all its vCPUs: a boot sector that wakes every other
# processor by INIT and SIPI. Each adds one to the word at 0x9000, where a witness outside reads it,
# and halts. Before that the first one puts what CPUID says to 0x9010, 16 bytes for each of `leaves`.
	.code16
	.globl _start
_start:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	movw	%ax, %es
	movw	%ax, %ss
	movw	$0x7c00, %sp
	movl	$0, 0x9000
	cld

	movw	$leaves, %si
	movw	$0x9010, %di
1:	lodsl
	testl	%eax, %eax
	jz	2f
	xorl	%ecx, %ecx
	cpuid
	stosl
	movl	%ebx, %eax
	stosl
	movl	%ecx, %eax
	stosl
	movl	%edx, %eax
	stosl
	jmp	1b
2:
	# The local APIC is above what real mode reaches: give %fs a flat segment.
	lgdt	gdt_pointer
	movl	%cr0, %eax
	orb	$1, %al
	movl	%eax, %cr0
	movw	$8, %bx
	movw	%bx, %fs
	andb	$0xfe, %al
	movl	%eax, %cr0

	# The others start at 0x8000, the page that the SIPI names.
	movw	$other, %si
	movw	$0x8000, %di
	movw	$(other_end - other), %cx
	rep movsb

	lock incl 0x9000
	movl	$0xfee00300, %ebx
	movl	$0x000c4500, %fs:(%ebx)	# INIT to all but this one; QEMU's need no time for it
	movl	$0x000c4608, %fs:(%ebx)	# SIPI: page 8
rest:
	hlt
	jmp	rest

other:
	cli
	xorw	%ax, %ax
	movw	%ax, %ds
	lock incl 0x9000
1:	hlt
	jmp	1b
other_end:

leaves:	# features, more features, the CPU's name, caches
	.long	1, 7, 0x80000002, 0x80000003, 0x80000004, 0x80000006, 0

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf92000000ffff
gdt_pointer:
	.word	15
	.long	gdt

	.org	510
	.word	0xaa55
